"""Which of a run's weights are trained at a step: gradual unfreezing (`qvla.methods.unfreezing`).

The stage follows from the step alone, so a resumed run is in the stage in which it was cut off.
Every weight that will ever be trained is in the optimiser from the start; one without a gradient is
passed over there, weight decay included, and gets its moments when it is first trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qvla.methods.recipe import Recipe, TrainingError
from qvla.methods.unfreezing import Stage, stages_of
from qvla.models.families import family_of
from qvla.models.families.family import Family

EVERYTHING_ELSE = math.inf  # lies below all layers, or beside them


class Unfreezing(TrainerCallback):
    """Has each step train what its stage says, of the parameters trained when it is made."""

    def __init__(self, model: nn.Module, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._depths = [(model.get_parameter(name), depth) for name, depth in depths(model)]
        self._steps = 1.0  # an epoch
        self._now: Stage | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader[Any] | None = None,
        **_: Any,
    ) -> None:
        if args.world_size > 1:
            raise TrainingError(
                "Unfreezing by stages needs a run of one process: leave out --unfreeze, or start "
                "it without a launcher."
            )
        assert train_dataloader is not None  # the Trainer tells it
        self._steps = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        last = self._stages[-1]
        if self._first_step(last) >= state.max_steps:
            raise TrainingError(
                f"The run has {state.max_steps} steps and an epoch has {self._steps}, so the stage "
                f"{last} would never begin: give it more epochs, or leave that stage out."
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        stage = [one for one in self._stages if self._first_step(one) <= state.global_step][-1]
        if stage != self._now:
            self._now = stage
            for parameter, depth in self._depths:
                parameter.requires_grad_(is_trained(depth, stage))

    def _first_step(self, stage: Stage) -> int:
        return math.ceil(stage.epoch * self._steps)


def is_trained(depth: float, stage: Stage) -> bool:
    return stage.layers is None or depth <= stage.layers


def depths(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Names of the parameters that a model trains, and how many layers lie from the output down to
    and with each: 0 above all layers, then the decoder's from the top, then the vision tower's.

    Only layers in which something is trained count. A head tied to the embedding table is above
    all layers, and its table with it.
    """
    family = family_of(getattr(model, "config", None))
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    places = {name: _layer(name, family) for name in trained}
    order = sorted({place for place in places.values() if place is not None}, reverse=True)
    numbers = {place: number for number, place in enumerate(order, start=1)}
    above = set(_above(model, family))
    for name in trained:
        place = places[name]
        if place is not None:
            yield name, numbers[place]
        else:
            yield name, 0 if name in above else EVERYTHING_ELSE


def check(model: nn.Module, recipe: Recipe) -> None:
    """Raises TrainingError when the first stage of the recipe would train nothing, or a later one
    nothing more, or the method cannot be had in stages. `model` may be on the meta device.
    """
    if recipe.unfreeze is None:
        return
    if recipe.kind.method.needs_all_gradients:
        raise TrainingError(
            f"The method {recipe.method} needs the gradients of all its weights at every step, so "
            "it cannot be had with --unfreeze: leave that out, or use lora."
        )
    found = [depth for _, depth in depths(model)]
    before = 0
    for stage in stages_of(recipe.unfreeze):
        count = sum(is_trained(depth, stage) for depth in found)
        if count == before:
            layers = len({depth for depth in found if 0 < depth < EVERYTHING_ELSE})
            raise TrainingError(
                f"The stage {stage} of --unfreeze would train nothing more, for the method "
                f"{recipe.method} trains {layers} layers here"
                f"{'' if 0 in found else ' and nothing above them'}: name another or leave it out."
            )
        before = count


def _layer(name: str, family: Family) -> tuple[int, int] | None:
    """Where a parameter lies among the layers, the nearest to the output last."""
    for rank, path in enumerate(family.all_layers):
        if found := re.search(rf"(?:^|\.){re.escape(path)}\.(\d+)\.", name):
            return rank, int(found[1])
    return None


def _above(model: nn.Module, family: Family) -> Iterable[str]:
    """Parameters of the output head and of the decoder beside its layers and its embedding, by the
    first of their names.
    """
    places = (family.decoder, family.head)
    own = {
        id(parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if any(f".{place}." in f".{name}" for place in places)
        and f".{family.embedding}." not in f".{name}"
    }
    return (name for name, parameter in model.named_parameters() if id(parameter) in own)
