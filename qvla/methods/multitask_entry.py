"""Multi-task LoRA: one half of a LoRA for all tasks, and one for each.

The registry's entry, apart from `qvla.methods.multitask` itself, whose import brings PEFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qvla.methods.around import AroundProjections
from qvla.methods.method import TrainingError
from qvla.methods.placement import PROJECTIONS, ProjectionFields
from qvla.methods.places import Places

if TYPE_CHECKING:
    from qvla.methods.multitask import MultiTaskConfig


class MultiTaskFields(ProjectionFields, Protocol):
    """What a recipe says of it."""

    rank: int
    lora_alpha: float
    dropout: float
    tasks: list[str]
    train_task: str | None


class MultiTaskMethod(AroundProjections):
    """A LoRA of half the rank that all tasks share, and one of half the rank for each of them. A
    row's prompt says which is its own.
    """

    name = "multitask"
    title = "Multi-task LoRA"
    made = "A multi-task LoRA adapter"
    paper = "LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021), in two halves"
    fields = (*PROJECTIONS, *MultiTaskFields.__annotations__)
    link = "https://arxiv.org/abs/2106.09685"
    learning_rate = 2e-4  # LoRA's
    peft_type = "MULTITASK"
    needs_import = "qvla.methods.multitask"
    merges = False  # each task has weights of its own
    on_nf4 = True
    mixes = True
    joined = True

    def config(self, recipe: MultiTaskFields, places: Places) -> MultiTaskConfig:
        from qvla.methods.multitask import MultiTaskConfig

        if recipe.rank % 2:
            raise TrainingError(
                f"A multi-task LoRA needs an even rank for its two halves, not {recipe.rank}."
            )
        return MultiTaskConfig(
            r=recipe.rank // 2,
            lora_alpha=recipe.lora_alpha,
            dropout=recipe.dropout,
            target_modules=self.targets(recipe, places),
            tasks=list(recipe.tasks),
            task=recipe.train_task,
        )


MULTITASK = MultiTaskMethod()
