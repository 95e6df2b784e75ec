"""Teaches the vision tower to see, before it is given any language.

It is shown the views that a teacher is shown, smaller and in other light, and learns to say of each
what the teacher says (Beyer et al. 2022, arXiv 2106.05237): per token the teacher's features at two
depths, by their cosine, and from the mean of its tokens what the teacher names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from qvla.embedded.budget import BudgetRun, computing_type
from qvla.embedded.naming import Named, Names, NamingHeads, naming_losses, shares_named
from qvla.embedded.sources import TrainingPhoto, shares_of
from qvla.embedded.teachers import Seen, Teacher, log_shares, weighed
from qvla.embedded.views import STUDENT_SIZE, Views, for_student, in_other_light

BATCH = 128
LAST_WEIGHT, MIDDLE_WEIGHT = 2.0, 1.0  # of one minus the cosine
LAST_PART = 0.8  # of the budget is used when it begins
# How much of the changes of light the last part and the language have: data sets have their own.
LITTLE = 0.2
MIDDLE = 2 / 3  # of the tower's layers are behind it where it imitates the middle features


class Pupil(nn.Module):
    """The tower with heads for what it is asked while it learns: pixels (B, 3, 112, 112) to what it
    says that the teacher sees.
    """

    def __init__(self, tower: PreTrainedModel, names: Names, widths: tuple[int, int]) -> None:
        super().__init__()
        self.tower = tower
        width = tower.config.hidden_size
        self.middle, self.last = (nn.Linear(width, size) for size in widths)
        self.names = NamingHeads(width, names)
        self._middle = round(MIDDLE * tower.config.num_hidden_layers)

    def forward(self, pixels: torch.Tensor) -> Seen:
        tower: Any = self.tower
        states = tower.embeddings(pixels)
        behind = [states := layer(states, None) for layer in tower.encoder.layers]
        last = tower.post_layernorm(states)
        return Seen(self.middle(behind[self._middle - 1]), self.last(last), self.names(last))


def train_sight(
    tower: PreTrainedModel,
    teacher: Teacher,
    names: Names,
    photos: Sequence[TrainingPhoto],
    views: Views,
    *,
    minutes: float,
    checkpoint: Path,
    batch: int = BATCH,
    held_out: Sequence[TrainingPhoto] = (),
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Trains `tower` for the given minutes; returns its float32 weights by name.

    How much it names of photos `held_out` is in the log.
    """
    torch.manual_seed(0)
    device, dtype = views.device, computing_type(views.device)
    pupil = Pupil(tower, names, teacher.widths).to(device, dtype)
    run = BudgetRun(
        nn.ModuleDict({"pupil": pupil}),
        minutes=minutes,
        learning_rate=1e-3,
        weight_decay=0.05,
        checkpoint=checkpoint,
        seed=seed,
    )
    shares = shares_of(photos, device)
    if device.type == "cpu":  # a GPU gains less than the minute that compiling takes
        pupil.compile()

    def losses() -> dict[str, torch.Tensor]:
        rows = shares.multinomial(batch, replacement=True)
        shown = views.draw(rows)
        with torch.no_grad():
            seen = teacher.looking(shown)
        light = 1.0 if run.share < LAST_PART else LITTLE
        return losses_of(pupil(in_other_light(for_student(shown), light).to(dtype)), seen)

    def look() -> None:
        def name(shown: torch.Tensor) -> Named:
            return pupil(shown.to(device, dtype)).named

        log_shares("the tower", shares_named(name, names, held_out, STUDENT_SIZE))

    run.go("sight", losses, look)
    prefix = "pupil.tower."
    return {
        name.removeprefix(prefix): weight
        for name, weight in run.master_weights().items()
        if name.startswith(prefix)
    }


def losses_of(told: Seen, seen: Seen) -> dict[str, torch.Tensor]:
    """How far what is told is from what the teacher sees: features by the mean of one minus the
    cosine of a token, names by their cross-entropies.
    """
    return {
        "last": LAST_WEIGHT * (1 - _likeness(told.last, seen.last)),
        "middle": MIDDLE_WEIGHT * (1 - _likeness(told.middle, seen.middle)),
    } | weighed(naming_losses(told.named, seen.named.probabilities()))


def _likeness(told: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Of features (B, T, C), each channel of those that are seen standardised over the batch: what
    all photos have in common says nothing.
    """
    deviation, mean = torch.std_mean(seen, dim=(0, 1))
    return F.cosine_similarity(told.float(), (seen - mean) / (deviation + 1e-5), dim=-1).mean()
