"""BitFit: "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models" (Ben Zaken et al., 2021).

The registry's entry, apart from `qvla.methods.bitfit` itself, whose import brings PEFT.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from qvla.methods.method import Method, Trained
from qvla.methods.placement import PLACEMENT, PlacementFields, language_layers, vision_layers
from qvla.methods.places import Places

if TYPE_CHECKING:
    from torch import nn

    from qvla.methods.bitfit import BitFitConfig


class BitFitMethod(Method):
    """The biases alone. Gemma has none, so on PaliGemma they are those of the vision tower and the
    projector: a photo is seen otherwise, and told of as before.

    Without a placement it is every bias. Any other placement means those of the layers that it
    comes to, and none outside of layers, such as the projector's.
    """

    name = "bitfit"
    title = "BitFit"
    made = "Differences of biases"
    paper = (
        "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked "
        "Language-models (Ben Zaken et al., 2021)"
    )
    link = "https://arxiv.org/abs/2106.10199"
    fields = PLACEMENT
    defaults: ClassVar = {"towers": "both"}
    # Its authors' for all biases of BERT (README of github.com/benzakenelad/BitFit).
    learning_rate = 1e-3
    peft_type = "BITFIT"
    needs_import = "qvla.methods.bitfit"
    merges = True
    on_nf4 = True  # which leaves biases as they are
    mixes = False  # all rows share what their photos are seen by

    def config(self, recipe: PlacementFields, places: Places) -> BitFitConfig:
        from qvla.methods.bitfit import BitFitConfig

        lists = (recipe.preset, recipe.layers, recipe.vision_layers, recipe.vision_placement)
        if (recipe.towers, recipe.placement, *lists) == ("both", "all", None, None, None, None):
            unused = "|".join(map(re.escape, places.unused))
            return BitFitConfig(target_modules=rf"(?!.*(?:{unused})).*" if unused else None)
        meant = (
            (places.language, language_layers(recipe, places)),
            (places.vision, vision_layers(recipe, places)),
        )
        within = [
            rf"{re.escape(path)}\.(?:{'|'.join(map(str, layers))})"
            for stack, layers in meant
            for path in stack.paths
            if layers
        ]
        return BitFitConfig(target_modules=rf".*(?:{'|'.join(within)})\..*")

    def touched(self, model: nn.Module, recipe: PlacementFields, places: Places) -> list[str]:
        from qvla.methods.bitfit import biased

        return list(biased(model, self.config(recipe, places)))

    def trained(self, recipe: Any, places: Places) -> Trained:
        return Trained("sight")


BITFIT = BitFitMethod()
