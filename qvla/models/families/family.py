"""What this project asks of a model family.

Each file beside this one answers for one family. Everything else takes a `Family` from `family_of`
and names no model class and no path within a model.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.feature_extraction_utils import BatchFeature

from qvla.errors import QvlaError
from qvla.methods.places import Places, Stack
from qvla.settings import CAPTION_PREFIX, QUESTION_PREFIX

IGNORED = -100  # the label that PyTorch's cross-entropy leaves out

# The parts of a model, as counts and records name them.
EMBEDDINGS, LANGUAGE_MODEL = "embeddings", "language_model"
VISION_TOWER, PROJECTOR = "vision_tower", "projector"

# Beginnings of parameter names that Transformers renames when it loads, since version 4.52.
PUBLISHED_LAYOUT = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}


def bare_question(prefix: str, title: str) -> str:
    """A prompt without the words that ask PaliGemma for an answer, for a family of that title which
    takes questions alone; raises QvlaError for the prompt that asks for a caption.
    """
    if prefix == CAPTION_PREFIX:
        raise QvlaError(
            f"{title} answers questions and writes no captions: ask it one, with the prompt "
            f"`{QUESTION_PREFIX} QUESTION`."
        )
    return prefix.removeprefix(f"{QUESTION_PREFIX} ")


def bracket(tokenizer: Any) -> None:
    """Has a tokeniser of words put its first and last special token around every text, as BERT's
    does under the names `[CLS]` and `[SEP]`.
    """
    ends = {"bos_token": "cls_token", "eos_token": "sep_token"}
    tokenizer.add_special_tokens({own: getattr(tokenizer, name) for name, own in ends.items()})
    first, last = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B {last}",
        special_tokens=[(first, tokenizer.cls_token_id), (last, tokenizer.sep_token_id)],
    )


def question_tokens(tokenizer: Any, texts: Sequence[str], title: str) -> dict[str, torch.Tensor]:
    """Texts as a family of that title takes them that has no words of its own around them:
    `input_ids` and `attention_mask` (B, T), padded on the right. QvlaError for one too long.
    """
    batch = dict(
        tokenizer(
            list(texts),
            padding=True,
            padding_side="right",
            return_attention_mask=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
    )
    length: int = batch["input_ids"].shape[1]
    if length > tokenizer.model_max_length:
        raise QvlaError(
            f"A question or answer is {length} tokens long and {title} takes "
            f"{tokenizer.model_max_length}: shorten it."
        )
    return batch


class Family(ABC):
    """One family of vision-language models: its classes, where its modules lie, what it is fed.

    Its methods take configurations, models (bare or in a PeftModel) and processors of its own
    classes alone, which Python's types cannot say here.

    Paths are names of modules within the bare model, as `model_class` makes it. In a PeftModel they
    stand behind `base_model.model.`.
    """

    model_type: ClassVar[str]  # as config.json has it
    title: ClassVar[str]  # as sentences have it
    config_class: ClassVar[type[PreTrainedConfig]]
    model_class: ClassVar[type[PreTrainedModel]]
    processor_class: ClassVar[type[ProcessorMixin]]

    decoder: ClassVar[str]  # the language model without its output head
    decoder_layers: ClassVar[str]
    language_title: ClassVar[str] = "decoder"  # of all layers that work on text, in sentences
    embedding: ClassVar[str]
    head: ClassVar[str]
    tower: ClassVar[str]  # the vision tower
    tower_layers: ClassVar[str]
    projector: ClassVar[str]
    projector_linears: ClassVar[Sequence[str]]  # its linear layers, within it
    # Linear layers of one layer of decoder (Gemma's and LLaMA's) and tower (SigLIP's and CLIP's),
    # with the sublayers that they lie in.
    projections: ClassVar[Mapping[str, Sequence[str]]] = {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), ("self_attn",)),
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), ("mlp",)),
    }
    tower_projections: ClassVar[Mapping[str, Sequence[str]]] = {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), ("self_attn",)),
        **dict.fromkeys(("fc1", "fc2"), ("mlp",)),
    }
    outputs: ClassVar[Mapping[str, str]] = {"attention": "o_proj", "mlp": "down_proj"}
    tower_outputs: ClassVar[Mapping[str, str]] = {"attention": "out_proj", "mlp": "fc2"}

    # Configurations that are built in by the model's hub id, for reports without its weights.
    built_in: ClassVar[Mapping[str, Callable[[], PreTrainedConfig]]] = {}
    # Beginnings of parameter names, as this Transformers has them, to those of published files.
    published: ClassVar[Mapping[str, str]] = {}
    image_token: ClassVar[str | None]  # that stands for the photo in a prompt, where one does
    extra_tokens: ClassVar[Sequence[str]] = ()  # that the processor wants in every vocabulary
    neutral_norm: ClassVar[float]  # the weight with which the decoder's norms only normalise
    prompt_tokens: ClassVar[int]  # of the captioning prompt without its photo
    one_text: ClassVar[bool] = True  # whether a decoder writes answers behind their prompts
    # Why the planner does not know the activations of such models, where it does not.
    no_plan: ClassVar[str | None] = None
    no_training: ClassVar[str | None] = None  # why it is not trained here, where it is not
    holds_int8_table: ClassVar[bool] = True  # whether `int8_embedding` can hold its tables
    # What is tried and counted where nothing else is asked for: an adapter of which method, with
    # which of its settings, and which prompt.
    usual_method: ClassVar[str] = "bottleneck"
    usual_settings: ClassVar[Mapping[str, Any]] = {}
    usual_prompt: ClassVar[str] = CAPTION_PREFIX

    @property
    def sight(self) -> tuple[str, ...]:
        """The modules that image features go through, whole: a model in which nothing under them is
        changed sees a photo as its base does.
        """
        return (self.tower, self.projector)

    @property
    def language_layers(self) -> tuple[str, ...]:
        """Where the layers lie that work on text: the decoder's, and those of an encoder like it,
        if there is one, before them.
        """
        return (self.decoder_layers,)

    @property
    def all_layers(self) -> tuple[str, ...]:
        """The same and the vision tower's, those nearer to the output later."""
        return (self.tower_layers, *self.language_layers)

    @property
    def text(self) -> tuple[str, ...]:
        """The modules that work on text, row by row of a batch."""
        return (self.decoder,)

    @property
    def parts(self) -> Mapping[str, str]:
        """Modules to the part of the model that they are counted as, the innermost first."""
        return {
            self.embedding: EMBEDDINGS,
            self.head: EMBEDDINGS,
            self.tower: VISION_TOWER,
            self.projector: PROJECTOR,
            self.decoder: LANGUAGE_MODEL,
        }

    def places(self, config: Any) -> Places:
        """Where methods go in a model of that configuration."""
        text, vision = config.text_config, config.vision_config
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return Places(
            language=Stack(
                title=self.language_title,
                paths=self.language_layers,
                depth=text.num_hidden_layers,
                hidden=text.hidden_size,
                attended=text.num_attention_heads * head,
                wide=text.intermediate_size,
                projections=self.projections,
                outputs=self.outputs,
            ),
            vision=Stack(
                title="vision tower",
                paths=[self.tower_layers],
                depth=self.tower_depth(config),
                hidden=vision.hidden_size,
                attended=vision.hidden_size,
                wide=vision.intermediate_size,
                projections=self.tower_projections,
                outputs=self.tower_outputs,
            ),
            projector=[f"{self.projector}.{name}" for name in self.projector_linears],
            unused=self.unused(config),
        )

    def tower_depth(self, config: Any) -> int:
        """Layers of the vision tower whose outputs are used, counted from the input."""
        return config.vision_config.num_hidden_layers

    def unused(self, config: Any) -> Sequence[str]:
        """Paths of modules whose outputs nothing uses, so that nothing in them could learn."""
        return ()

    def skeleton(self, config: PreTrainedConfig) -> PreTrainedModel:
        """The model on the meta device, which has shapes but no memory."""
        with torch.device("meta"):
            return self.model_class(copy.deepcopy(config))  # which writes into what it is given

    def published_name(self, name: str) -> str:
        """A parameter's name in the files of the family's published checkpoints."""
        for own, published in self.published.items():
            if name.startswith(own):
                return published + name.removeprefix(own)
        return name

    def end_tokens(self, model: Any, processor: Any) -> set[int]:
        """Every token with which `generate` ends an answer of this checkpoint."""
        ends = model.generation_config.eos_token_id
        if ends is None:
            ends = processor.tokenizer.eos_token_id
        return set(ends) if isinstance(ends, (list, tuple)) else {ends}

    def generate(
        self,
        model: Any,
        prompt: Mapping[str, torch.Tensor],
        features: torch.Tensor,
        **options: Any,
    ) -> torch.Tensor:
        """The tokens (B, T) that answer prompts, as `encode` makes them, about photos that were
        looked at: `image_features` of each row. `options` are those of Transformers' `generate`.
        """
        tokens = model.generate(**prompt, **self.given_features(features), **options)
        return tokens[:, prompt["input_ids"].shape[1] :]

    def decode(self, processor: Any, tokens: torch.Tensor, config: Any) -> list[str]:
        """Generated tokens (B, T) as texts."""
        texts = processor.tokenizer.batch_decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    def pixels(self, processor: Any, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB images of any size as `image_features` takes them, float32."""
        seen: torch.Tensor = processor.image_processor(list(images), return_tensors="pt")[
            "pixel_values"
        ]
        return seen

    def trial(self, model: Any) -> dict[str, torch.Tensor]:
        """The arguments of the shortest `forward` through all of the model that works on text."""
        tokens = torch.zeros(1, 2, dtype=torch.long)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    def fits(self, processor: Any, config: Any) -> bool:
        """Whether a processor makes what models of that configuration take; any exception where it
        does not say.
        """
        return (
            processor.image_token_id == config.image_token_id
            and len(processor.tokenizer) <= config.text_config.vocab_size
            and self.processor_tokens(processor) == self.image_tokens(config)
            and self.processor_side(processor) == self.image_side(config)
        )

    def expected(self, config: Any) -> str:
        """What a processor has to make for that configuration, as a sentence has it."""
        side = self.image_side(config)
        return (
            f"{self.image_tokens(config)} image tokens of number {config.image_token_id} for "
            f"{side} x {side} pixels"
        )

    def refuse_tokens(self, texts: Iterable[str], special: Iterable[str]) -> None:
        """Raises QvlaError for a prompt or caption that holds a token of the layout."""
        for text in texts:
            for token in special:
                if token in text:
                    raise QvlaError(f"A prompt or caption may not hold {token}: take it out.")

    @abstractmethod
    def attention(self, config: Any) -> dict[str, str]:
        """The attention to load each part with, as `attn_implementation` takes it."""

    @abstractmethod
    def image_side(self, config: Any) -> int:
        """Pixels of a side of the square that the vision tower takes."""

    @abstractmethod
    def image_tokens(self, config: Any) -> int:
        """Tokens that one photo takes in a prompt."""

    @abstractmethod
    def processor_side(self, processor: Any) -> int | None:
        """Pixels of a side of the squares that a processor makes; None if it makes none."""

    @abstractmethod
    def processor_tokens(self, processor: Any) -> int:
        """Tokens that a processor takes for one photo; any exception where it does not say."""

    @abstractmethod
    def resizing(self, side: int) -> dict[str, Any]:
        """The arguments by which the image processor makes squares of that side instead."""

    @abstractmethod
    def image_features(self, model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        """Photos (B, 3, S, S) through tower and projector, to what the decoder takes: (B, N, D)."""

    @abstractmethod
    def given_features(self, features: torch.Tensor) -> dict[str, Any]:
        """The arguments by which `forward` and `generate` take features (B, N, D), one photo a row,
        in place of pixels.
        """

    @abstractmethod
    def prompt(self, prefix: str) -> str:
        """The words of a task's prompt. Only the family knows which special tokens go with it."""

    @abstractmethod
    def encode(
        self,
        processor: Any,
        prefixes: Sequence[str],
        suffixes: Sequence[str] | None = None,
    ) -> BatchFeature:
        """Prompts, and the answers to them, to tensors: see `qvla.captioning.prompts`."""

    @abstractmethod
    def make_processor(
        self, tokenizer: PreTrainedTokenizerBase, *, image_size: int, image_tokens: int
    ) -> ProcessorMixin:
        """A processor over a tokeniser, for photos of a side and of a length in tokens."""
