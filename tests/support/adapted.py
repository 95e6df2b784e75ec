"""A tiny PaliGemma with bottleneck adapters, and what goes in and comes out of it."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig, PaliGemmaForConditionalGeneration

from qvla.captioning.prompts import CAPTION_PREFIX, encode_text
from qvla.methods.bottleneck import BottleneckConfig
from tests.support.alone import processor_of, stamp

PRECISIONS = ["fp32", "bf16", "nf4"]


def load(folder: Path, precision: str = "fp32") -> PaliGemmaForConditionalGeneration:
    """A model of one's own; its files are read once in a process."""
    return copy.deepcopy(_read(folder, stamp(folder), precision))


@cache
def _read(folder: Path, stamp: object, precision: str) -> PaliGemmaForConditionalGeneration:
    options = {"dtype": torch.float32 if precision == "fp32" else torch.bfloat16}
    if precision == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options["device_map"] = "cpu"
    return PaliGemmaForConditionalGeneration.from_pretrained(folder, **options).eval()


def randomise(model: nn.Module, adapter_name: str, seed: int) -> None:
    """Weights large enough, biases and norms included, for no term to hide in a tolerance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f".{adapter_name}." in f"{name}.":
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def adapted(base: nn.Module, *names: str, seed: int = 1, **options: object) -> PeftModel:
    """The base with one adapter a name, "default" if none is given; the first is active."""
    first, *others = names or ("default",)
    model = get_peft_model(base, BottleneckConfig(**options), first)
    for name in others:
        model.add_adapter(name, BottleneckConfig(**options))
    for number, name in enumerate([first, *others]):
        randomise(model, name, seed + number)
    return model.eval()


def make_inputs(
    checkpoint: Path, rows: int, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """The captioning prompt for as many different images, which are noise."""
    processor = processor_of(checkpoint)
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randn(rows, 3, 32, 32, generator=generator)
    batch = encode_text(processor, [CAPTION_PREFIX] * rows)
    return {**batch, "pixel_values": pixels.to(dtype)}


def row(batch: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    return {name: tensor[index : index + 1] for name, tensor in batch.items()}


def logits(model: nn.Module, batch: dict[str, torch.Tensor], **options: object) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch, **options).logits.float()
