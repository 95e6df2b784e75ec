"""BOFT: "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization" (Liu et al., 2023),
by PEFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qvla.methods.around import AroundProjections
from qvla.methods.placement import PROJECTIONS, ProjectionFields, check_blocks
from qvla.methods.places import Places

if TYPE_CHECKING:
    from peft import BOFTConfig, PeftConfig, PeftModel
    from torch import nn


class BoftFields(ProjectionFields, Protocol):
    """What a recipe says of it."""

    block_size: int
    dropout: float


class BoftMethod(AroundProjections):
    """OFT whose rotation is a product of block-diagonal ones with the inputs shuffled between, as
    in a fast Fourier transform; and a trained scale for each output.

    It has one factor here, as PEFT makes of any number of them where its CUDA extension cannot be
    built: a folder of more would not load there.
    """

    name = "boft"
    title = "BOFT"
    made = "A BOFT adapter"
    paper = (
        "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization (Liu et al., 2023)"
    )
    link = "https://arxiv.org/abs/2311.06243"
    fields = (*PROJECTIONS, *BoftFields.__annotations__)
    # PEFT holds a dense square matrix of the inputs beside each projection: 1 GB for 16,384.
    defaults: ClassVar = {
        "lora_targets": ["q_proj", "v_proj"],
        "vision_targets": ["q_proj", "v_proj"],
    }
    learning_rate = 1e-4  # as OFT's
    peft_type = "BOFT"
    merges = True
    on_nf4 = True
    outputs = 1  # which is scaled
    squares = 2  # the dense rotation, and a factor of it
    mixes = False  # PEFT's layers have no `adapter_names`

    def config(self, recipe: BoftFields, places: Places) -> BOFTConfig:
        from peft import BOFTConfig

        check_blocks(recipe, places, self.title)
        return BOFTConfig(
            boft_block_size=recipe.block_size,
            boft_dropout=recipe.dropout,
            target_modules=self.targets(recipe, places),
        )

    def outline(self, model: nn.Module, adapter: PeftConfig) -> PeftModel:
        """PEFT makes the matrix from numbers, which the meta device does not have."""
        from peft.tuners.boft.layer import BOFTLayer

        layer: Any = BOFTLayer
        made = layer.perm2mat
        layer.perm2mat = lambda _, indices: indices.new_empty((len(indices), len(indices)))
        try:
            return super().outline(model, adapter)
        finally:
            layer.perm2mat = made

    def width(self, recipe: Any) -> int:
        return 0


BOFT = BoftMethod()
