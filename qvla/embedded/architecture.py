"""The embedded model's configuration: an ordinary PaliGemma of under 10 million parameters."""

from __future__ import annotations

from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaProcessor, SiglipVisionConfig

IMAGE_SIZE = 112
PATCH_SIZE = 16
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2


def mini_config(processor: PaliGemmaProcessor) -> PaliGemmaConfig:
    """Most parameters go to sight: scene captions need few words but many textures."""
    tokenizer = processor.tokenizer
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text = GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=256,
        **special,
    )
    vision = SiglipVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=320,
        intermediate_size=960,
        num_hidden_layers=6,
        num_attention_heads=5,
        projection_dim=text.hidden_size,
        vision_use_head=False,
    )
    return PaliGemmaConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=processor.image_token_id,
        projection_dim=text.hidden_size,
        hidden_size=text.hidden_size,
        **special,
    )
