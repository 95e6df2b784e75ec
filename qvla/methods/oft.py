"""OFT: "Controlling Text-to-Image Diffusion by Orthogonal Finetuning" (Qiu et al., 2023), by PEFT,
in the form that turns inputs (Qiu et al., "Orthogonal Finetuning Made Scalable", 2025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from qvla.methods.around import AroundProjections
from qvla.methods.placement import PROJECTIONS, ProjectionFields, check_blocks
from qvla.methods.places import Places

if TYPE_CHECKING:
    from peft import OFTConfig, PeftConfig, PeftModel
    from torch import nn


class OftFields(ProjectionFields, Protocol):
    """What a recipe says of it."""

    block_size: int
    dropout: float


class OftMethod(AroundProjections):
    """A rotation in blocks before each projection, `W' = W R` with `R` orthogonal, so that angles
    between the weight's rows stay. `R` comes of a skew matrix a block, by Cayley's transform.
    """

    name = "oft"
    title = "OFT"
    made = "An OFT adapter"
    paper = "Controlling Text-to-Image Diffusion by Orthogonal Finetuning (Qiu et al., 2023)"
    link = "https://arxiv.org/abs/2306.07280"
    fields = (*PROJECTIONS, *OftFields.__annotations__)
    learning_rate = 1e-4  # OFTv2's for language models (arXiv 2506.19847)
    peft_type = "OFT"
    merges = True
    on_nf4 = True
    mixes = False  # PEFT's layers have no `adapter_names`

    def config(self, recipe: OftFields, places: Places) -> OFTConfig:
        from peft import OFTConfig

        check_blocks(recipe, places, self.title)
        return OFTConfig(
            oft_block_size=recipe.block_size,
            module_dropout=recipe.dropout,
            target_modules=self.targets(recipe, places),
        )

    def outline(self, model: nn.Module, adapter: PeftConfig) -> PeftModel:
        """Has PEFT itself leave out the weights' memory. Each of its layers numbers the places in a
        block too, which PyTorch does slowly while everything is made on the meta device.
        """
        from peft import get_peft_model

        return get_peft_model(model, adapter, low_cpu_mem_usage=True).to("meta")

    def per_input(self, recipe: OftFields) -> int:
        return 4 * recipe.block_size  # the powers that Cayley's transform is summed from

    def width(self, recipe: Any) -> int:
        return 0


OFT = OftMethod()
