"""LoRA: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., 2021), by PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from qvla.methods.around import AroundProjections
from qvla.methods.placement import PROJECTIONS, ProjectionFields, ranks
from qvla.methods.places import Places

if TYPE_CHECKING:
    from peft import LoraConfig


class LoraFields(ProjectionFields, Protocol):
    """What a recipe says of it."""

    rank: int
    lora_alpha: float
    dropout: float
    adaptive_rank: bool
    rank_pattern: list[str] | None


class LoraMethod(AroundProjections):
    """A product of two low-rank matrices beside projections, added to each."""

    name = "lora"
    title = "LoRA"
    made = "A LoRA adapter"
    paper = "LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021)"
    link = "https://arxiv.org/abs/2106.09685"
    fields = (*PROJECTIONS, *LoraFields.__annotations__)
    learning_rate = 2e-4  # QLoRA's for models up to 13B (arXiv 2305.14314, table 9)
    peft_type = "LORA"
    merges = True
    on_nf4 = True
    mixes = True
    decomposes = False  # DoRA is a kind of LoRA to PEFT

    def config(self, recipe: LoraFields, places: Places) -> LoraConfig:
        from peft import LoraConfig

        return LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.lora_alpha,  # type: ignore[arg-type] # it only divides it
            lora_dropout=recipe.dropout,
            target_modules=self.targets(recipe, places),
            rank_pattern=ranks(recipe, places),
            use_dora=self.decomposes,
        )

    def makes(self, values: Mapping[str, Any]) -> bool:
        return super().makes(values) and bool(values.get("use_dora")) is self.decomposes


LORA = LoraMethod()
