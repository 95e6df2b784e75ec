"""AdaLoRA: "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning" (Zhang et al., 2023),
by PEFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qvla.methods.around import AroundProjections
from qvla.methods.placement import PROJECTIONS, ProjectionFields
from qvla.methods.places import Places

if TYPE_CHECKING:
    from pathlib import Path

    from peft import AdaLoraConfig
    from transformers import TrainerCallback

# A run begins with half as many ranks again as it ends with (the paper's section 4).
SPARE = 1.5


class AdaLoraFields(ProjectionFields, Protocol):
    """What a recipe says of it."""

    rank: int
    lora_alpha: float
    dropout: float


class AdaLoraMethod(AroundProjections):
    """LoRA as `P diag(l) Q`, whose ranks are moved in training to the projections that need them:
    `rank` is what is left on average, 1.5 times as much what a run begins with.
    """

    name = "adalora"
    title = "AdaLoRA"
    made = "An AdaLoRA adapter"
    paper = "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning (Zhang et al., 2023)"
    link = "https://arxiv.org/abs/2303.10512"
    fields = (*PROJECTIONS, *AdaLoraFields.__annotations__)
    learning_rate = 1e-3  # the middle of the paper's, 5e-4 to 2e-3 (tables 9 and 11)
    peft_type = "ADALORA"
    merges = True
    on_nf4 = True
    needs_all_gradients = True  # by which it tells where ranks are needed
    int8_reason = "PEFT's layers of it hand on float32 where the next one takes bfloat16"
    no_start = "its ranks have been cut, and a run begins with all of them"
    mixes = False  # PEFT's layers have no `adapter_names`

    def config(self, recipe: AdaLoraFields, places: Places) -> AdaLoraConfig:
        from peft import AdaLoraConfig

        return AdaLoraConfig(
            target_r=recipe.rank,
            init_r=round(SPARE * recipe.rank),
            lora_alpha=recipe.lora_alpha,  # type: ignore[arg-type] # it only divides it
            lora_dropout=recipe.dropout,
            target_modules=self.targets(recipe, places),
            total_step=1,  # PEFT asks for one; the run tells it how many there are
        )

    def callbacks(self, checkpoint: Path | None) -> list[TrainerCallback]:
        from qvla.methods.adalora_budget import Budget

        return [Budget(checkpoint)]

    def per_input(self, recipe: AdaLoraFields) -> int:
        return self.width(recipe)  # the first matrix, scaled by the values between

    def width(self, recipe: AdaLoraFields) -> int:
        return round(SPARE * recipe.rank)


ADALORA = AdaLoraMethod()
