"""What a bottleneck adapter is made of, and its place among PEFT's methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from peft.config import PeftConfig
from torch.nn import functional as F

from qvla.methods.tuner import (
    TunerError,
    checked_count,
    checked_layers,
    checked_spread,
    peft_type_named,
)

# A site's name to the layer's module whose output is the sublayer's output, in the decoder (of
# Gemma and LLaMA) and in the vision tower (of SigLIP and CLIP).
SITES: dict[str, str] = {"attention": "self_attn.o_proj", "mlp": "mlp.down_proj"}
VISION_SITES: dict[str, str] = {"attention": "self_attn.out_proj", "mlp": "mlp.fc2"}

# Plain functions only: an activation with weights of its own would be one more thing to save.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,  # the name that the report and AdapterHub use
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
}


class BottleneckError(TunerError):
    """A bottleneck adapter was asked for something that it cannot do; says what and what to do."""


BOTTLENECK = peft_type_named("BOTTLENECK")


@dataclass
class BottleneckConfig(PeftConfig):
    """Houlsby adapters after each decoder layer's attention and MLP (arXiv 1902.00751).

    With `o` the output of the attention's output projection or of the MLP's down projection, an
    adapter gives `o + up(activation(down(dropout(o))))`, before the decoder's own residual. The
    defaults are the report's: AdapterHub's `double_seq_bn` with SiLU.

    Args:
        reduction_factor: hidden size / bottleneck width; the width is rounded down.
        activation: one of `ACTIVATIONS`.
        layers: indices of the decoder layers to adapt; None means all of them.
        vision_layers: indices of the vision tower's layers to adapt; none by default.
        sites: which of `SITES` to adapt in each of these layers.
        dropout: probability of dropping an element of the adapter's input in training.
        train_norms: train a copy of the normalisation layer after each adapter too.
        init_std: standard deviation of the initial down and up weights; biases start at zero.

    Raises:
        BottleneckError: a value outside what is said above.
    """

    reduction_factor: int = field(default=16, metadata={"help": "Hidden size / bottleneck width."})
    activation: str = field(default="silu", metadata={"help": "Non-linearity of the bottleneck."})
    layers: list[int] | None = field(
        default=None, metadata={"help": "Decoder layers to adapt; None means all."}
    )
    vision_layers: list[int] = field(
        default_factory=list, metadata={"help": "Layers of the vision tower to adapt."}
    )
    sites: list[str] | tuple[str, ...] = field(
        default=("attention", "mlp"), metadata={"help": "Sublayers to adapt: attention, mlp."}
    )
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})
    train_norms: bool = field(
        default=False, metadata={"help": "Train the normalisation layer after each adapter too."}
    )
    init_std: float = field(
        default=0.02, metadata={"help": "Standard deviation of the initial weights."}
    )

    # PEFT reads this of every method. Here layers and sites decide, so it is no field of the file.
    target_modules: ClassVar[None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK
        checked_count("The reduction factor", self.reduction_factor, BottleneckError)
        if self.activation not in ACTIVATIONS:
            raise BottleneckError(
                f"Unknown activation {self.activation!r}: choose one of {', '.join(ACTIVATIONS)}."
            )
        self.sites = self._checked_sites()
        if self.vision_layers:
            self.vision_layers = checked_layers(self.vision_layers, BottleneckError, "vision") or []
        if self.layers or not self.vision_layers:  # the vision tower alone is a placement too
            self.layers = checked_layers(self.layers, BottleneckError)
        if not 0 <= self.dropout < 1:
            raise BottleneckError(
                f"Dropout must be at least 0 and less than 1, not {self.dropout!r}."
            )
        checked_spread(self.init_std, BottleneckError)

    def _checked_sites(self) -> list[str]:
        sites = [self.sites] if isinstance(self.sites, str) else list(self.sites)
        unknown = [site for site in sites if site not in SITES]
        if unknown or not sites:
            found = repr(unknown[0]) if unknown else "none"
            raise BottleneckError(
                f"An adapter needs one or both of the sites {', '.join(SITES)}; found {found}."
            )
        return [site for site in SITES if site in sites]
