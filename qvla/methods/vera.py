"""VeRA: "VeRA: Vector-based Random Matrix Adaptation" (Kopiczko et al., 2023), by PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from qvla.methods.around import AroundProjections
from qvla.methods.placement import PROJECTIONS, ProjectionFields
from qvla.methods.places import Places

if TYPE_CHECKING:
    from peft import VeraConfig


class VeraFields(ProjectionFields, Protocol):
    """What a recipe says of it."""

    rank: int
    dropout: float


class VeraMethod(AroundProjections):
    """One pair of random matrices for all projections, frozen; each projection trains two vectors
    that scale what comes of the first, and of the second.
    """

    name = "vera"
    title = "VeRA"
    made = "A VeRA adapter"
    paper = "VeRA: Vector-based Random Matrix Adaptation (Kopiczko et al., 2023)"
    link = "https://arxiv.org/abs/2310.11454"
    fields = (*PROJECTIONS, *VeraFields.__annotations__)
    defaults: ClassVar = {
        "rank": 256
    }  # the paper's for large language models; a rank costs one number
    learning_rate = 4e-3  # the paper's for them (table 8)
    peft_type = "VERA"
    merges = True
    on_nf4 = True
    mixes = False  # PEFT's layers have no `adapter_names`

    def config(self, recipe: VeraFields, places: Places) -> VeraConfig:
        from peft import VeraConfig

        return VeraConfig(
            r=recipe.rank,
            vera_dropout=recipe.dropout,
            target_modules=self.targets(recipe, places),
        )


VERA = VeraMethod()
