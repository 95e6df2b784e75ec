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
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.feature_extraction_utils import BatchFeature

from qvla.errors import QvlaError
from qvla.methods.places import Places, Stack

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
    embedding: ClassVar[str]
    head: ClassVar[str]
    tower: ClassVar[str]  # the vision tower
    tower_layers: ClassVar[str]
    projector: ClassVar[str]
    projector_linears: ClassVar[Sequence[str]]  # its linear layers, within it
    # Linear layers of one layer of decoder (Gemma's and LLaMA's) and tower (SigLIP's and CLIP's),
    # with the sublayers that they lie in.
    projections: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
    }
    tower_projections: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), "self_attn"),
        **dict.fromkeys(("fc1", "fc2"), "mlp"),
    }
    outputs: ClassVar[Mapping[str, str]] = {"attention": "o_proj", "mlp": "down_proj"}
    tower_outputs: ClassVar[Mapping[str, str]] = {"attention": "out_proj", "mlp": "fc2"}

    # Configurations that are built in by the model's hub id, for reports without its weights.
    built_in: ClassVar[Mapping[str, Callable[[], PreTrainedConfig]]] = {}
    # Beginnings of parameter names, as this Transformers has them, to those of published files.
    published: ClassVar[Mapping[str, str]] = {}
    image_token: ClassVar[str]
    extra_tokens: ClassVar[Sequence[str]] = ()  # that the processor wants in every vocabulary
    neutral_norm: ClassVar[float]  # the weight with which the decoder's norms only normalise
    prompt_tokens: ClassVar[int]  # of the captioning prompt without its photo

    @property
    def sight(self) -> tuple[str, ...]:
        """The modules that image features go through, whole: a model in which nothing under them is
        changed sees a photo as its base does.
        """
        return (self.tower, self.projector)

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
                title="decoder",
                path=self.decoder_layers,
                depth=text.num_hidden_layers,
                hidden=text.hidden_size,
                attended=text.num_attention_heads * head,
                wide=text.intermediate_size,
                projections=self.projections,
                outputs=self.outputs,
            ),
            vision=Stack(
                title="vision tower",
                path=self.tower_layers,
                depth=vision.num_hidden_layers,
                hidden=vision.hidden_size,
                attended=vision.hidden_size,
                wide=vision.intermediate_size,
                projections=self.tower_projections,
                outputs=self.tower_outputs,
            ),
            projector=[f"{self.projector}.{name}" for name in self.projector_linears],
        )

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
