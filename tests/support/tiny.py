"""Checkpoints of random weights, of any family, small enough to make anew in every test session."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
    ProcessorMixin,
    SiglipVisionConfig,
)

from qvla.models.families import family_named
from qvla.models.families.word_tokens import word_processor

WORDS = (
    "caption en describe a the of in is are . many some planes buildings river forest airport "
    "green trees road beach sea white houses parked next to"
).split()
# What LLaVA's captioning prompt is made of besides.
CHAT = "user : provide one-sentence caption for the provided image assistant".split()
SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
PROMPTS = {  # that ask for a caption, as the model cards show them
    "paligemma": "<image>caption en",
    "llava": "USER: <image>\nProvide a one-sentence caption for the provided image. ASSISTANT:",
}


def build_tiny(
    folder: Path,
    *,
    family: str = "paligemma",
    hidden: int = 64,
    layers: int = 3,
    odd_vision: bool = False,
    seed: int = 0,
) -> Path:
    """Writes the checkpoint and returns its folder.

    Many `layers` make it slow, for tests that have to come in between. `odd_vision` gives the
    vision MLP a width that is no multiple of 64, as SigLIP So400m's 4,304. Weights are wide enough
    for greedy captions to differ between photos and between variants.
    """
    known = family_named(family)
    words = [*WORDS, *CHAT] if family == "llava" else WORDS
    processor = word_processor(known, words, image_size=32, image_tokens=4)
    text = {
        "vocab_size": len(processor.tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 128,
    }
    vision = {
        "image_size": 32,
        "patch_size": 16,
        "hidden_size": 64,
        "intermediate_size": 112 if odd_vision else 128,
        "num_attention_heads": 2,
    }
    torch.manual_seed(seed)
    model = MAKERS[family](processor, text, vision)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
        # PaliGemma's embedding is the output head too: small enough that a token does not repeat
        # itself, and smallest for <loc…>, special tokens and an early end of text.
        model.lm_head.weight *= 0.01
        model.lm_head.weight[6 : 6 + len(WORDS)] *= 20
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _paligemma(processor: ProcessorMixin, text: dict, vision: dict) -> PreTrainedModel:
    width = text["hidden_size"]
    seeing = SiglipVisionConfig(
        **vision, num_hidden_layers=2, projection_dim=width, vision_use_head=False
    )
    config = PaliGemmaConfig(
        text_config=GemmaConfig(**text, **SPECIAL),
        vision_config=seeing,
        image_token_id=processor.image_token_id,
        projection_dim=width,
        hidden_size=width,
        **SPECIAL,
    )
    return PaliGemmaForConditionalGeneration(config)


def _llava(processor: ProcessorMixin, text: dict, vision: dict) -> PreTrainedModel:
    # three layers, of which the last is never used
    seeing = CLIPVisionConfig(**vision, num_hidden_layers=3, projection_dim=16)
    config = LlavaConfig(
        text_config=LlamaConfig(**text, **SPECIAL),
        vision_config=seeing,
        image_token_index=processor.image_token_id,
        image_seq_length=4,
        **SPECIAL,
    )
    return LlavaForConditionalGeneration(config)


MAKERS = {"paligemma": _paligemma, "llava": _llava}
