"""Tiny models of random weights that answer questions, and each answer as the model gives it when
it is loaded alone, with Transformers and PEFT only.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import (
    AutoConfig,
    BlipConfig,
    BlipTextConfig,
    BlipVisionConfig,
    ViltConfig,
)

from qvla.models.families import family_named
from qvla.models.families.word_tokens import SPECIAL_TOKENS, word_processor
from tests.support.alone import processor_of

WORDS = (
    "what is in the photo how many are there a river road forest airport sea beach yes no one two "
    "three four green blue white colour of trees planes ?"
).split()
QUESTIONS = [
    "what is in the photo ?",
    "how many planes are there in the photo ?",
    "is there a river ?",
    "what colour is the sea ?",
]
LENGTH = 6  # tokens of an answer
KINDS: dict[str, Any] = {
    "blip": transformers.BlipForQuestionAnswering,
    "vilt": transformers.ViltForQuestionAnswering,
}
SIDE, PATCH = 32, 16


def build_tiny_blip(folder: Path, *, hidden: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """Writes the checkpoint, with weights wide enough for answers to differ; returns its folder."""
    processor: Any = word_processor(
        family_named("blip"), WORDS, image_size=SIDE, image_tokens=(SIDE // PATCH) ** 2 + 1
    )
    words = processor.tokenizer
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
    }
    text = BlipTextConfig(
        **sizes,
        vocab_size=len(words) + 1,
        encoder_hidden_size=hidden,
        max_position_embeddings=64,
        bos_token_id=len(words),  # as in the published one, a token that no text has
        eos_token_id=2,
        pad_token_id=words.pad_token_id,
        sep_token_id=words.sep_token_id,
    )
    vision = BlipVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH)
    model = transformers.BlipForQuestionAnswering(
        BlipConfig(text_config=text, vision_config=vision)
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, _spread(name))
        said = model.text_decoder.cls.predictions.bias
        said[:] = -3.0
        said[len(SPECIAL_TOKENS) + 2 : len(words)] = 0.0
        said[words.sep_token_id] = 0.5
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _spread(name: str) -> float:
    """Of a weight: so that attention picks, and photo, question and place all change the answer."""
    if "word_embeddings" in name:
        return 0.1 if "decoder" in name else 1.5
    if "vision_model" in name or "query" in name or "key" in name:
        return 1.0
    if "position_embeddings" in name:
        return 0.5
    return 0.15 if "text_encoder" in name and "crossattention.output" in name else 0.3


def build_tiny_vilt(folder: Path, *, hidden: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """The same of a ViLT, which picks one of the words."""
    processor: Any = word_processor(
        family_named("vilt"), WORDS, image_size=SIDE, image_tokens=(SIDE // PATCH) ** 2 + 1
    )
    config = ViltConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        id2label=dict(enumerate(WORDS)),
    )
    torch.manual_seed(seed)
    model = transformers.ViltForQuestionAnswering(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_lora(
    checkpoint: Path, folder: Path, *, seed: int, targets: str | list[str], rank: int = 4
) -> Path:
    """Saves a LoRA adapter of random weights, wide enough to change what is answered."""
    base = alone(checkpoint)
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def alone(checkpoint: Path, adapter: Path | None = None, **options: Any) -> Any:
    """The model as Transformers and PEFT load it, in evaluation mode."""
    kind = KINDS[AutoConfig.from_pretrained(checkpoint).model_type]
    model: Any = kind.from_pretrained(checkpoint, **options)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def answer_alone(
    checkpoint: Path, model: Any, photo: Image.Image, question: str, **options: Any
) -> str:
    """The answer to one question about one photo, so that nothing is padded."""
    processor = processor_of(checkpoint)
    inputs = processor(images=photo, text=question, return_tensors="pt")
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.no_grad():
        tokens = bare.generate(
            **inputs, **{"max_new_tokens": LENGTH, "do_sample": False, **options}
        )
    return processor.decode(tokens[0], skip_special_tokens=True).strip()


def picked_alone(checkpoint: Path, model: Any, photo: Image.Image, question: str) -> str:
    """A ViLT's answer to one question about one photo."""
    processor = processor_of(checkpoint)
    with torch.no_grad():
        scores = model(**processor(photo, question, return_tensors="pt")).logits[0]
    return model.config.id2label[int(scores.argmax())]


def photos(count: int, *, seed: int = 0) -> list[Image.Image]:
    """Squares of coloured noise."""
    draw = random.Random(seed)
    return [Image.frombytes("RGB", (40, 40), draw.randbytes(40 * 40 * 3)) for _ in range(count)]
