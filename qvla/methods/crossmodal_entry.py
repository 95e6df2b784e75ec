"""Cross-modal adapter: gated low-rank maps between a photo and the prompt.

The registry's entry, apart from `qvla.methods.crossmodal` itself, whose import brings PEFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qvla.methods.method import Method, Trained
from qvla.methods.places import Places

if TYPE_CHECKING:
    from torch import nn

    from qvla.methods.crossmodal import CrossModalConfig


class CrossModalFields(Protocol):
    """What a recipe says of it."""

    rank: int


class CrossModalMethod(Method):
    """Maps between the mean of a photo's features and that of the prompt's embeddings, each added
    to the other side at the decoder's input, through gates that start shut.
    """

    name = "crossmodal"
    title = "Cross-modal adapter"
    made = "A cross-modal adapter"
    paper = (
        "Flamingo: a Visual Language Model for Few-Shot Learning (Alayrac et al., 2022), its gates"
    )
    link = "https://arxiv.org/abs/2204.14198"
    fields = tuple(CrossModalFields.__annotations__)
    learning_rate = 1e-2  # gates that start at zero have far to go; tried on the embedded model
    peft_type = "CROSSMODAL"
    needs_import = "qvla.methods.crossmodal"
    merges = False  # what it adds depends on the photo
    on_nf4 = True
    mixes = False  # it changes what all layers are given

    def config(self, recipe: CrossModalFields, places: Places) -> CrossModalConfig:
        from qvla.methods.crossmodal import CrossModalConfig

        return CrossModalConfig(r=recipe.rank)

    def touched(self, model: nn.Module, recipe: CrossModalFields, places: Places) -> list[str]:
        return [f"{path}.0" for path in places.language.paths]

    def trained(self, recipe: CrossModalFields, places: Places) -> Trained:
        return Trained("input", width=recipe.rank)


CROSSMODAL = CrossModalMethod()
