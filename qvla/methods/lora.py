"""LoRA: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., 2021), by PEFT."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from qvla.methods.method import Method, Places, Trained, TrainingError

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn


class LoraFields(Protocol):
    """What a recipe says of it."""

    rank: int
    lora_alpha: float
    lora_targets: list[str]
    layers: list[int] | None
    dropout: float


class LoraMethod(Method):
    """A product of two low-rank matrices beside projections of the decoder, added to each."""

    name = "lora"
    title = "LoRA"
    made = "A LoRA adapter"
    paper = "LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021)"
    link = "https://arxiv.org/abs/2106.09685"
    fields = tuple(LoraFields.__annotations__)
    learning_rate = 2e-4  # QLoRA's for models up to 13B (arXiv 2305.14314, table 9)
    peft_type = "LORA"
    merges = True
    on_nf4 = True
    mixes = True

    def config(self, recipe: LoraFields, places: Places) -> LoraConfig:
        from peft import LoraConfig

        return LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.lora_alpha,  # type: ignore[arg-type] # it only divides it
            lora_dropout=recipe.dropout,
            target_modules=pattern(recipe, places),
        )

    def touched(self, model: nn.Module, recipe: LoraFields, places: Places) -> list[str]:
        found = re.compile(pattern(recipe, places))
        return [name for name, _ in model.named_modules() if found.fullmatch(name)]

    def trained(self, recipe: LoraFields, *, hidden: int, depth: int) -> Trained:
        layers = range(depth) if recipe.layers is None else recipe.layers
        return Trained("parallel", width=recipe.rank, layers=layers, sites=recipe.lora_targets)

    def check(self, model: nn.Module, recipe: LoraFields, places: Places) -> None:
        from torch.nn import Linear

        super().check(model, recipe, places)
        layers = model.get_submodule(places.decoder_layers)
        known = {
            name.rpartition(".")[2]
            for name, module in layers.named_modules()
            if isinstance(module, Linear)
        }
        for target in recipe.lora_targets:
            if target not in known:
                raise TrainingError(
                    f"The decoder has no projection {target!r} for LoRA: choose among "
                    f"{', '.join(sorted(known))}."
                )


def pattern(recipe: LoraFields, places: Places) -> str:
    """A pattern of module names: PEFT would else find the vision tower's of the same names."""
    names = "|".join(map(re.escape, recipe.lora_targets))
    layer = r"\d+" if recipe.layers is None else "|".join(map(str, recipe.layers))
    return rf".*{re.escape(places.decoder_layers)}\.(?:{layer})\.(?:self_attn|mlp)\.(?:{names})"


LORA = LoraMethod()
