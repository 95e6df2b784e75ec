"""ViLT for visual question answering (arXiv 2102.03334, section 4.3): one transformer over the
question's words and the photo's patches, and a classifier of a fixed set of answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import transformers
from transformers import PreTrainedTokenizerBase, ViltConfig, ViltProcessor
from transformers.feature_extraction_utils import BatchFeature

from qvla.errors import QvlaError
from qvla.methods.places import Places, Stack
from qvla.models.architectures import VILT_VQA
from qvla.models.families.family import (
    EMBEDDINGS,
    LANGUAGE_MODEL,
    VISION_TOWER,
    Family,
    bare_question,
    bracket,
    question_tokens,
)
from qvla.settings import QUESTION_PREFIX

ANSWERS = 3129  # of VQAv2 that were given often enough (section 4.3)


def vilt_b32_vqa() -> ViltConfig:
    """ViLT-B/32 with a number for each answer: what they are stands in the published files."""
    return ViltConfig(
        vocab_size=30522,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=40,
        image_size=384,
        patch_size=32,
        id2label={number: str(number) for number in range(ANSWERS)},
    )


class ViltForQuestionAnswering(transformers.ViltForQuestionAnswering):
    """Transformers' model, of the same weights and name, which passes over buffers in old files."""

    _keys_to_ignore_on_load_unexpected = [r"position_ids$", r"token_type_ids$"]  # noqa: RUF012


class Vilt(Family):
    """It takes a question bare, without `answer en` before it, and picks an answer: what is
    generated is one token, the answer's number.

    Photos keep their shape, so smaller ones of a batch are padded. They are read together with the
    question, so there is nothing to look at first: their features are their pixels, and a fourth
    channel that is 1 where the photo is.
    """

    model_type = "vilt"
    title = "ViLT"
    config_class = ViltConfig
    model_class = ViltForQuestionAnswering
    processor_class = ViltProcessor

    decoder = "vilt"
    decoder_layers = "vilt.encoder.layer"
    embedding = "vilt.embeddings.text_embeddings.word_embeddings"
    head = "classifier.3"
    tower = "vilt.embeddings.patch_embeddings"
    projector_linears = ()
    projections: ClassVar = dict.fromkeys(("query", "key", "value"), ("attention.attention",))
    outputs: ClassVar = {"attention": "dense", "mlp": "dense"}

    built_in: ClassVar = {VILT_VQA: vilt_b32_vqa}
    image_token = None
    neutral_norm = 1.0
    prompt_tokens = 8
    one_text = False
    no_plan = "words and patches go through one transformer"
    no_training = "it picks one of a fixed set of answers and writes none"
    holds_int8_table = False
    usual_method = "lora"
    usual_settings: ClassVar = {"lora_targets": ["query", "key", "value"]}
    usual_prompt = f"{QUESTION_PREFIX} what is in the photo?"

    @property
    def sight(self) -> tuple[str, ...]:
        return ()

    @property
    def all_layers(self) -> tuple[str, ...]:
        return self.language_layers

    @property
    def text(self) -> tuple[str, ...]:
        return (self.decoder_layers,)

    @property
    def parts(self) -> Mapping[str, str]:
        return {
            self.embedding: EMBEDDINGS,
            self.tower: VISION_TOWER,
            "vilt": LANGUAGE_MODEL,
            "classifier": LANGUAGE_MODEL,
        }

    def places(self, config: Any) -> Places:
        common: dict[str, Any] = {
            "hidden": config.hidden_size,
            "attended": config.hidden_size,
            "wide": config.intermediate_size,
            "outputs": self.outputs,
        }
        return Places(
            language=Stack(
                title="transformer",
                paths=self.language_layers,
                depth=config.num_hidden_layers,
                projections=self.projections,
                **common,
            ),
            vision=Stack(title="vision tower", paths=(), depth=0, projections={}, **common),
            projector=(),
        )

    def end_tokens(self, model: Any, processor: Any) -> set[int]:
        return set()

    def generate(
        self,
        model: Any,
        prompt: Mapping[str, torch.Tensor],
        features: torch.Tensor,
        **options: Any,
    ) -> torch.Tensor:
        """One number an answer (B, 1). Beams and the largest number of tokens mean nothing here."""
        mixed = {name: options[name] for name in ("adapter_names",) if name in options}
        scores = model(**prompt, **self.given_features(features), **mixed).logits  # (B, answers)
        scores = options["logits_processor"](prompt["input_ids"], scores.float())
        picked: torch.Tensor = scores.argmax(-1, keepdim=True)
        options["stopping_criteria"](picked, scores)
        return picked

    def decode(self, processor: Any, tokens: torch.Tensor, config: Any) -> list[str]:
        return [" ".join(config.id2label[number] for number in row) for row in tokens.tolist()]

    def trial(self, model: Any) -> dict[str, torch.Tensor]:
        side = self.image_side(model.config)
        return {**super().trial(model), "pixel_values": torch.zeros(1, 3, side, side)}

    def fits(self, processor: Any, config: Any) -> bool:
        return (
            len(processor.tokenizer) <= config.vocab_size
            and processor.image_processor.size["shortest_edge"] == config.image_size
        )

    def expected(self, config: Any) -> str:
        return (
            f"at most {config.vocab_size:,} words, and {config.image_size} pixels on the shorter "
            "side"
        )

    def attention(self, config: Any) -> dict[str, str]:
        """Transformers has no other for it."""
        return {"": "eager"}

    def image_side(self, config: Any) -> int:
        """Of a photo that is square."""
        return config.image_size

    def image_tokens(self, config: Any) -> int:
        """Of a photo that is square: its patches and the class token."""
        return (config.image_size // config.patch_size) ** 2 + 1

    def processor_side(self, processor: Any) -> int | None:
        return None

    def processor_tokens(self, processor: Any) -> int:
        raise ValueError("the tokens of a photo depend on its shape")

    def resizing(self, side: int) -> dict[str, Any]:
        return {"size": {"shortest_edge": side}}

    def pixels(self, processor: Any, images: Sequence[Any]) -> torch.Tensor:
        """(B, 4, H, W) of the largest height and width; see the class."""
        seen = processor.image_processor(list(images), return_tensors="pt")
        return torch.cat([seen["pixel_values"], seen["pixel_mask"][:, None]], 1)

    def image_features(self, model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        return pixel_values

    def given_features(self, features: torch.Tensor) -> dict[str, Any]:
        return {"pixel_values": features[:, :3], "pixel_mask": features[:, 3].long()}

    def prompt(self, prefix: str) -> str:
        return bare_question(prefix, self.title)

    def encode(
        self,
        processor: Any,
        prefixes: Sequence[str],
        suffixes: Sequence[str] | None = None,
    ) -> BatchFeature:
        """Questions, padded on the right; QvlaError for suffixes, which it has no use for."""
        if suffixes is not None:
            raise QvlaError(f"{self.title} cannot be given answers, because {self.no_training}.")
        self.refuse_tokens(prefixes, processor.tokenizer.all_special_tokens)
        questions = [self.prompt(one) for one in prefixes]
        return BatchFeature(question_tokens(processor.tokenizer, questions, self.title))

    def make_processor(
        self, tokenizer: PreTrainedTokenizerBase, *, image_size: int, image_tokens: int
    ) -> ViltProcessor:
        from transformers import ViltImageProcessor  # which warns where there is no torchvision

        bracket(tokenizer)
        patch = image_size // round((image_tokens - 1) ** 0.5)
        options: dict[str, Any] = {**self.resizing(image_size), "size_divisor": patch}
        return ViltProcessor(image_processor=ViltImageProcessor(**options), tokenizer=tokenizer)


VILT = Vilt()
