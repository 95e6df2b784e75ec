"""BitFit: "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models" (Ben Zaken et al., 2021).

The registry's entry, apart from `qvla.methods.bitfit` itself, whose import brings PEFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qvla.methods.method import Method, Trained
from qvla.methods.places import Places

if TYPE_CHECKING:
    from torch import nn

    from qvla.methods.bitfit import BitFitConfig


class BitFitMethod(Method):
    """The biases alone. Gemma has none, so on PaliGemma they are those of the vision tower and the
    projector: a photo is seen otherwise, and told of as before.
    """

    name = "bitfit"
    title = "BitFit"
    made = "Differences of biases"
    paper = (
        "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked "
        "Language-models (Ben Zaken et al., 2021)"
    )
    link = "https://arxiv.org/abs/2106.10199"
    learning_rate = 1e-3  # the largest that the paper searches (appendix A.2)
    peft_type = "BITFIT"
    needs_import = "qvla.methods.bitfit"
    merges = True
    on_nf4 = True  # which leaves biases as they are
    mixes = False  # all rows share what their photos are seen by

    def config(self, recipe: Any, places: Places) -> BitFitConfig:
        from qvla.methods.bitfit import BitFitConfig

        return BitFitConfig()

    def touched(self, model: nn.Module, recipe: Any, places: Places) -> list[str]:
        from qvla.methods.bitfit import biased

        return list(biased(model))

    def trained(self, recipe: Any, places: Places) -> Trained:
        return Trained("sight")


BITFIT = BitFitMethod()
