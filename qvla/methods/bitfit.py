"""BitFit: "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models" (Ben Zaken et al., 2021, https://arxiv.org/abs/2106.10199), as a PEFT method.
Importing this module registers it with PEFT.

Only biases are trained. A layer's bias b stays as it is, and a trained difference d is added to
what the layer gives,

    y = W x + b + d,    d = 0 at the start,

so that the base's own weights are never written, and several adapters share one base. Merging
writes b + d in b's place.

Gemma has no biases. On PaliGemma that leaves the vision tower and the projector: what is trained is
how a photo is seen, and nothing of how it is told. The same holds of LLaVA, whose Llama has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils import register_peft_method
from torch import nn

from qvla.methods.tuner import OwnLayer, OwnTuner, TunerError, peft_type_named, shortened

BITFIT = peft_type_named("BITFIT")


@dataclass
class BitFitConfig(PeftConfig):
    """Args:
    target_modules: a pattern of the names of what has a bias to train; None means every bias.
    """

    target_modules: str | None = field(default=None, metadata={"help": "A pattern, or every bias."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BITFIT
        if not isinstance(self.target_modules, str | None):
            raise TunerError(
                "What has its bias trained is named by a pattern of names, or by nothing for all, "
                f"not by {shortened(self.target_modules)}."
            )


class BitFitLayer(OwnLayer):
    """A layer with a bias, and for each adapter what is added to that."""

    adapter_layer_names = ("bitfit_delta",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.bitfit_delta = nn.ParameterDict()

    def update_layer(self, adapter_name: str, config: BitFitConfig) -> None:
        self.bitfit_delta[adapter_name] = nn.Parameter(torch.zeros(self.bias.shape))
        self._ready(adapter_name, config)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, *args, **kwargs)
        for name in () if self.merged else self.answering():
            y = y + self._shaped(self.bitfit_delta[name]).to(y.dtype)
        return y

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Writes b + d into the base; `safe_merge` refuses a difference that is not finite."""
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.bitfit_delta:
                self._add(name, 1, safe_merge)
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Takes the differences out of the base again, to within its rounding."""
        while self.merged_adapters:
            self._add(self.merged_adapters.pop(), -1, False)

    def _add(self, name: str, sign: int, safe: bool) -> None:
        delta = self.bitfit_delta[name].detach()
        if safe and not torch.isfinite(delta).all():
            raise TunerError(f"The adapter {name} holds what is no finite number: train it again.")
        bias = self.bias.data
        self.bias.data = (bias.float() + sign * delta.float()).to(bias.dtype)

    def _shaped(self, delta: torch.Tensor) -> torch.Tensor:
        """A convolution's channels (C, H, W) come before its places."""
        return delta[:, None, None] if isinstance(self.get_base_layer(), nn.Conv2d) else delta


class BitFitModel(OwnTuner):
    """Trains the biases of a model of any kind."""

    prefix = "bitfit_"
    tuner_layer_cls = BitFitLayer

    def targets(self, model: nn.Module, config: BitFitConfig) -> Iterator[str]:
        return biased(model, config)


def biased(model: nn.Module, config: BitFitConfig) -> Iterator[str]:
    """Names of the layers whose bias is meant; raises TunerError when there is none."""
    kinds = (nn.Linear, nn.LayerNorm, nn.Conv2d, BitFitLayer)
    found = False
    for name, module in model.named_modules():
        within = name.endswith(".base_layer")  # it has its wrapper already
        # What is of a class derived elsewhere, as within nn.MultiheadAttention, is not called.
        internal = type(module).__name__ == "NonDynamicallyQuantizableLinear"
        meant = config.target_modules is None or re.fullmatch(config.target_modules, name)
        if isinstance(module, kinds) and module.bias is not None and meant:
            if within or internal:
                continue
            found = True
            yield name
    if not found and config.target_modules is not None:
        raise TunerError(
            "There is no bias in the layers that are named: Gemma and Llama have none, so choose "
            "layers of the vision tower, by --towers vision."
        )
    if not found:
        raise TunerError(f"{type(model).__name__} has no bias to train: use another method.")


register_peft_method(
    name="bitfit", config_cls=BitFitConfig, model_cls=BitFitModel, prefix="bitfit_"
)
