"""Full fine-tuning: every weight of the base is trained, and what comes of it is a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qvla.methods.method import Method, Trained
from qvla.methods.places import Places

if TYPE_CHECKING:
    from torch import nn


class FullMethod(Method):
    """No adapter: the base itself, vision tower included."""

    name = "full"
    title = "Full fine-tuning"
    made = "A base model of which all weights were trained"
    paper = "PaliGemma: A versatile 3B VLM for transfer (Beyer et al., 2024), section 3.2"
    link = "https://arxiv.org/abs/2407.07726"
    learning_rate = 1e-5  # PaliGemma's usual one for transfers
    precision = "fp32"  # steps of 1e-5 are lost in bfloat16 weights
    merges = False  # there is nothing to merge
    on_nf4 = False
    nf4_reason = "weights of 4 bits take no gradients"
    int8_reason = "weights of 8 bits take no gradients"
    mixes = False

    def config(self, recipe: Any, places: Places) -> None:
        return None

    def touched(self, model: nn.Module, recipe: Any, places: Places) -> list[str]:
        return [
            name
            for name, module in model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        ]

    def trained(self, recipe: Any, places: Places) -> Trained:
        return Trained("full", vision=Trained("full"))


FULL = FullMethod()
