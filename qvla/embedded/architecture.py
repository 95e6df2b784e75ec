"""The embedded model's configuration: an ordinary PaliGemma of under 10 million parameters."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from qvla.models.families.paligemma import PALIGEMMA

FAMILY = PALIGEMMA
IMAGE_SIZE = 112
PATCH_SIZE = 16
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
HIDDEN = 256


def mini_config(processor: Any) -> PreTrainedConfig:
    """Most parameters go to sight: scene captions need few words but many textures."""
    tokenizer = processor.tokenizer
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 640,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "max_position_embeddings": 256,
        **special,
    }
    vision = {
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "hidden_size": 320,
        "intermediate_size": 960,
        "num_hidden_layers": 6,
        "num_attention_heads": 5,
        "projection_dim": HIDDEN,
        "vision_use_head": False,
    }
    make: Any = FAMILY.config_class  # declares fewer fields than it takes
    return make(
        text_config=text,
        vision_config=vision,
        image_token_id=processor.image_token_id,
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
        **special,
    )
