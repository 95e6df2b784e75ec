"""Configurations that are built in, so that a model can be reported on without its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the names alone are asked for by forms
    from transformers import PaliGemmaConfig

PALIGEMMA_3B = "google/paligemma-3b-pt-224"


def paligemma_3b_224() -> PaliGemmaConfig:
    """SigLIP So400m/14 at 224 pixels and Gemma 2B (PaliGemma, arXiv 2407.07726, table 1).

    SigLIP's pooling head is left out, as in the published checkpoint: PaliGemma never uses it.
    """
    from transformers import GemmaConfig, PaliGemmaConfig, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        patch_size=14,
        image_size=224,
        projection_dim=2048,
        vision_use_head=False,
    )
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
    return PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=257152,
        projection_dim=2048,
        hidden_size=2048,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )


BUILT_IN: dict[str, Callable[[], PaliGemmaConfig]] = {PALIGEMMA_3B: paligemma_3b_224}
