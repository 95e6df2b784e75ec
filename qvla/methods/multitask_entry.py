"""Multi-task LoRA: one half of a LoRA for all tasks, and one for each.

The registry's entry, apart from `qvla.methods.multitask` itself, whose import brings PEFT.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from qvla.methods.lora import LoraFields, LoraMethod, pattern
from qvla.methods.method import Places, Trained, TrainingError

if TYPE_CHECKING:
    from qvla.methods.multitask import MultiTaskConfig


class MultiTaskFields(LoraFields, Protocol):
    """What a recipe says of it."""

    tasks: list[str]
    train_task: str | None


class MultiTaskMethod(LoraMethod):
    """A LoRA of half the rank that all tasks share, and one of half the rank for each of them."""

    name = "multitask"
    title = "Multi-task LoRA"
    made = "A multi-task LoRA adapter"
    paper = "LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021), in two halves"
    fields = (*LoraFields.__annotations__, *MultiTaskFields.__annotations__)
    peft_type = "MULTITASK"
    needs_import = "qvla.methods.multitask"
    merges = False  # each task has weights of its own

    def config(  # type: ignore[override] # it has more fields than LoRA
        self, recipe: MultiTaskFields, places: Places
    ) -> MultiTaskConfig:
        from qvla.methods.multitask import MultiTaskConfig

        if recipe.rank % 2:
            raise TrainingError(
                f"A multi-task LoRA needs an even rank for its two halves, not {recipe.rank}."
            )
        return MultiTaskConfig(
            r=recipe.rank // 2,
            lora_alpha=recipe.lora_alpha,
            dropout=recipe.dropout,
            target_modules=pattern(recipe, places),
            tasks=list(recipe.tasks),
            task=recipe.train_task,
        )

    def trained(self, recipe: LoraFields, *, hidden: int, depth: int) -> Trained:
        return replace(super().trained(recipe, hidden=hidden, depth=depth), joined=True)


MULTITASK = MultiTaskMethod()
