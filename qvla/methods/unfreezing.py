"""Gradual unfreezing: "Universal Language Model Fine-tuning for Text Classification" (Howard and
Ruder, 2018, arXiv 1801.06146), section 3.3: the layers next to the output are trained first.

A stage says from which epoch on which of the weights that the method trains are trained. It never
names others: an adapter's folder could not hold a base of which layers were changed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from qvla.methods.method import TrainingError

HEAD, ALL = "head", "all"
_STAGE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?):(head|top\d{1,4}|all)")


@dataclass(frozen=True)
class Stage:
    """From `epoch` on, what lies in so many layers next to the output, or above them, is trained;
    with None all is.
    """

    epoch: float
    layers: int | None

    def __str__(self) -> str:
        what = {None: ALL, 0: HEAD}.get(self.layers, f"top{self.layers}")
        return f"{self.epoch:g}:{what}"


def stages_of(texts: Sequence[str]) -> tuple[Stage, ...]:
    """Stages such as `0:head`, `1:top2`, `2:all`; raises TrainingError for what are none."""
    stages = [_stage(text) for text in texts]
    if not stages or stages[0].epoch != 0:
        raise TrainingError("The first stage of --unfreeze begins at epoch 0, such as 0:top2.")
    for before, after in itertools.pairwise(stages):
        if after.epoch <= before.epoch or _size(after) <= _size(before):
            raise TrainingError(
                f"The stages of --unfreeze begin later and train more one after the other, so "
                f"{after} cannot follow {before}."
            )
    return tuple(stages)


def _stage(text: str) -> Stage:
    found = _STAGE.fullmatch(text.strip())
    if found is None or found[2] == "top0":
        raise TrainingError(
            f"A stage of --unfreeze is an epoch and what is trained from then on, such as 0:head, "
            f"1:top2 or 2:all, not {text!r}."
        )
    layers = {HEAD: 0, ALL: None}.get(found[2], -1)
    return Stage(float(found[1]), int(found[2].removeprefix("top")) if layers == -1 else layers)


def _size(stage: Stage) -> float:
    return float("inf") if stage.layers is None else stage.layers
