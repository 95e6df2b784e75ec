"""PaliGemma (arXiv 2407.07726) and PaliGemma 2 (arXiv 2412.03555): SigLIP, a linear projector, and
Gemma or Gemma 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerBase,
    SiglipImageProcessor,
    SiglipVisionConfig,
)
from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS

from qvla.models.architectures import PALIGEMMA2_3B, PALIGEMMA_3B
from qvla.models.families.family import IGNORED, PUBLISHED_LAYOUT, Family


def paligemma_3b_224() -> PaliGemmaConfig:
    """SigLIP So400m/14 at 224 pixels and Gemma 2B (PaliGemma, table 1)."""
    text = GemmaConfig(
        vocab_size=257216,
        hidden_size=2048,
        intermediate_size=16384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    return _with_siglip(text)


def paligemma2_3b_224() -> PaliGemmaConfig:
    """SigLIP So400m/14 at 224 pixels and Gemma 2 2B (PaliGemma 2, table 1; Gemma 2, arXiv
    2408.00118, table 1), as Transformers' `convert_paligemma2_weights_to_hf.py` has it.
    """
    text = Gemma2Config(
        vocab_size=257216,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        query_pre_attn_scalar=256,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    return _with_siglip(text)


def _with_siglip(text: GemmaConfig | Gemma2Config) -> PaliGemmaConfig:
    """SigLIP's pooling head is left out, as in the published checkpoints: PaliGemma never uses
    it.
    """
    vision = SiglipVisionConfig(  # type: ignore[call-arg] # what it does not declare it keeps
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        patch_size=14,
        image_size=224,
        projection_dim=text.hidden_size,
        vision_use_head=False,
    )
    return PaliGemmaConfig(  # type: ignore[call-arg] # the same
        vision_config=vision,
        text_config=text,
        image_token_id=257152,
        projection_dim=text.hidden_size,
        hidden_size=text.hidden_size,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )


class PaliGemma(Family):
    """Its prompt is: image tokens, `<bos>`, prefix, newline, and in training the suffix and `<eos>`
    (big_vision, PaliGemma README). Spaces around the special tokens break the model.
    """

    model_type = "paligemma"
    title = "PaliGemma"
    config_class = PaliGemmaConfig
    model_class = PaliGemmaForConditionalGeneration
    processor_class = PaliGemmaProcessor

    decoder = "model.language_model"
    decoder_layers = "model.language_model.layers"
    embedding = "model.language_model.embed_tokens"
    head = "lm_head"
    tower = "model.vision_tower"
    tower_layers = "model.vision_tower.encoder.layers"
    projector = "model.multi_modal_projector"
    projector_linears = ("linear",)

    built_in: ClassVar = {PALIGEMMA_3B: paligemma_3b_224, PALIGEMMA2_3B: paligemma2_3b_224}
    published = PUBLISHED_LAYOUT
    image_token = "<image>"
    extra_tokens = tuple(EXTRA_TOKENS)  # for places and segments
    neutral_norm = 0.0  # Gemma's multiply by one plus their weight
    prompt_tokens = 5  # <bos>, "caption en" and a newline, in Gemma's vocabulary

    def attention(self, config: Any) -> dict[str, str]:
        """SDPA, except for Gemma 2's decoder, whose capped attention logits SDPA cannot do."""
        capped = getattr(config.text_config, "attn_logit_softcapping", None) is not None
        return {"": "sdpa", "vision_config": "sdpa", "text_config": "eager" if capped else "sdpa"}

    def image_side(self, config: Any) -> int:
        return config.vision_config.image_size

    def image_tokens(self, config: Any) -> int:
        vision = config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    def processor_side(self, processor: PaliGemmaProcessor) -> int | None:
        size: Any = processor.image_processor.size
        return size["height"] if size.get("height") == size.get("width") else None

    def processor_tokens(self, processor: PaliGemmaProcessor) -> int:
        return processor.image_seq_length

    def resizing(self, side: int) -> dict[str, Any]:
        return {"size": {"height": side, "width": side}}

    def image_features(self, model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        return model.get_image_features(pixel_values).pooler_output

    def given_features(self, features: torch.Tensor) -> dict[str, Any]:
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}

    def prompt(self, prefix: str) -> str:
        return f"{prefix}\n"

    def encode(
        self,
        processor: PaliGemmaProcessor,
        prefixes: Sequence[str],
        suffixes: Sequence[str] | None = None,
    ) -> BatchFeature:
        """Also `token_type_ids` (B, T): 0 on the prefix, which is attended both ways, 1 on the
        suffix.
        """
        tokenizer = processor.tokenizer
        special = (processor.image_token, tokenizer.bos_token, tokenizer.eos_token)
        self.refuse_tokens((*prefixes, *(suffixes or ())), special)
        images = processor.image_token * processor.image_seq_length
        prompts = [f"{images}{tokenizer.bos_token}{self.prompt(one)}" for one in prefixes]
        answers = None if suffixes is None else [text + tokenizer.eos_token for text in suffixes]
        batch = tokenizer(
            prompts,
            text_pair=answers,
            add_special_tokens=False,
            padding=True,
            padding_side="left" if answers is None else "right",
            return_attention_mask=True,
            return_token_type_ids=True,
            return_tensors="pt",
        )
        if answers is not None:
            batch["labels"] = batch["input_ids"].masked_fill(batch["token_type_ids"] == 0, IGNORED)
        return BatchFeature(dict(batch))

    def make_processor(
        self, tokenizer: PreTrainedTokenizerBase, *, image_size: int, image_tokens: int
    ) -> PaliGemmaProcessor:
        images = SiglipImageProcessor(size={"height": image_size, "width": image_size})
        images.image_seq_length = image_tokens  # type: ignore[attr-defined] # PaliGemma reads it
        return PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer)


PALIGEMMA = PaliGemma()
