"""IA3: "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning"
(Liu et al., 2022), by PEFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from qvla.methods.around import AroundProjections
from qvla.methods.placement import PROJECTIONS, ProjectionFields
from qvla.methods.places import Places

if TYPE_CHECKING:
    from peft import IA3Config


class Ia3Method(AroundProjections):
    """A trained vector that scales keys, values, and the activations within the MLP."""

    name = "ia3"
    title = "IA3"
    made = "An IA3 adapter"
    paper = (
        "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning "
        "(Liu et al., 2022)"
    )
    link = "https://arxiv.org/abs/2205.05638"
    fields = PROJECTIONS
    defaults: ClassVar = {
        "lora_targets": ["k_proj", "v_proj", "down_proj"],
        "vision_targets": ["k_proj", "v_proj", "fc2"],
    }
    learning_rate = 3e-3  # the paper's (section 3.5)
    peft_type = "IA3"
    merges = True
    on_nf4 = False
    nf4_reason = "PEFT's layers for it give keys in float32, which attention does not take there"
    mixes = False  # PEFT's layers have no `adapter_names`

    def config(self, recipe: ProjectionFields, places: Places) -> IA3Config:
        from peft import IA3Config

        # What an MLP's last projection takes in are the inner activations that the paper scales.
        last = {stack.outputs["mlp"] for stack in (places.language, places.vision)}
        return IA3Config(
            target_modules=self.targets(recipe, places),
            feedforward_modules=rf".*\.(?:{'|'.join(sorted(last))})",
        )

    def width(self, recipe: Any) -> int:
        return 0


IA3 = Ia3Method()
