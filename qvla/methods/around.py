"""What the methods share that go around projections, each through a tuner of PEFT's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from qvla.methods import placement
from qvla.methods.method import Method, Trained
from qvla.methods.placement import ProjectionFields, language_layers, vision_layers
from qvla.methods.places import Places

if TYPE_CHECKING:
    from torch import nn


class AroundProjections(Method):
    """Wraps the projections that the recipe's placement names, and nothing else."""

    joined: ClassVar[bool] = False  # see `Trained`
    outputs: ClassVar[int] = 0
    squares: ClassVar[int] = 0
    dense: ClassVar[bool] = False

    def targets(self, recipe: ProjectionFields, places: Places) -> str:
        """They as PEFT's `target_modules`; raises TrainingError for one that there is not."""
        return placement.pattern(recipe, places, self.title)

    def touched(self, model: nn.Module, recipe: ProjectionFields, places: Places) -> list[str]:
        return placement.projections(recipe, places, self.title)

    def trained(self, recipe: ProjectionFields, places: Places) -> Trained:
        def of(layers: Sequence[int], targets: Sequence[str]) -> Trained:
            return Trained(
                "parallel",
                self.width(recipe),
                layers,
                targets,
                joined=self.joined,
                outputs=self.outputs,
                per_input=self.per_input(recipe),
                squares=self.squares,
                dense=self.dense,
            )

        in_vision = vision_layers(recipe, places)
        sees = in_vision or recipe.projector
        return replace(
            of(language_layers(recipe, places), recipe.lora_targets),
            vision=of(in_vision, recipe.vision_targets) if sees else None,
        )

    def per_input(self, recipe: Any) -> int:
        """Numbers for each of a projection's inputs that are made of weights anew in each step."""
        return 0

    def width(self, recipe: Any) -> int:
        """Numbers a token between what it puts beside a projection, of which autograd keeps one."""
        return recipe.rank
