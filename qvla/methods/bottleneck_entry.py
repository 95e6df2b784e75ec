"""Bottleneck adapters: "Parameter-Efficient Transfer Learning for NLP" (Houlsby et al., 2019).

The registry's entry, apart from `qvla.methods.bottleneck` itself, whose import brings PEFT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from qvla.methods.method import AdapterCount, Method, Trained
from qvla.methods.placement import (
    PLACEMENT,
    PlacementFields,
    language_layers,
    takes_all,
    vision_layers,
)
from qvla.methods.places import Places

if TYPE_CHECKING:
    from torch import nn

    from qvla.methods.bottleneck import BottleneckConfig


class BottleneckFields(PlacementFields, Protocol):
    """What a recipe says of it."""

    reduction_factor: int
    activation: str
    sites: list[str]
    train_norms: bool
    dropout: float


class BottleneckMethod(Method):
    """A small non-linear network behind each sublayer, added to what comes out."""

    name = "bottleneck"
    title = "Bottleneck adapter"
    made = "A bottleneck adapter"
    paper = "Parameter-Efficient Transfer Learning for NLP (Houlsby et al., 2019)"
    link = "https://arxiv.org/abs/1902.00751"
    fields = (*PLACEMENT, *BottleneckFields.__annotations__)
    learning_rate = 5e-4  # the report's
    peft_type = "BOTTLENECK"
    needs_import = "qvla.methods.bottleneck"
    merges = False  # there is a non-linearity between its two projections
    on_nf4 = True
    mixes = True

    def config(self, recipe: BottleneckFields, places: Places) -> BottleneckConfig:
        from qvla.methods.bottleneck import BottleneckConfig

        return BottleneckConfig(
            reduction_factor=recipe.reduction_factor,
            activation=recipe.activation,
            layers=None if takes_all(recipe, places) else language_layers(recipe, places),
            vision_layers=vision_layers(recipe, places),
            sites=list(recipe.sites),
            dropout=recipe.dropout,
            train_norms=recipe.train_norms,
        )

    def touched(self, model: nn.Module, recipe: BottleneckFields, places: Places) -> list[str]:
        from qvla.methods.bottleneck.sites import norms, projections

        config = self.config(recipe, places)
        after = norms(model, config) if config.train_norms else ()
        return [*projections(model, config), *after]

    def trained(self, recipe: BottleneckFields, places: Places) -> Trained:
        def of(layers: Sequence[int], hidden: int, vision: Trained | None = None) -> Trained:
            width, sites = hidden // recipe.reduction_factor, recipe.sites
            return Trained(
                "sequential", width, layers, sites, norms=recipe.train_norms, vision=vision
            )

        in_vision = vision_layers(recipe, places)
        vision = of(in_vision, places.vision.hidden) if in_vision else None
        return of(language_layers(recipe, places), places.language.hidden, vision)

    def count(self, model: nn.Module) -> AdapterCount:
        from qvla.methods.bottleneck import count_parameters

        return count_parameters(model)


BOTTLENECK = BottleneckMethod()
