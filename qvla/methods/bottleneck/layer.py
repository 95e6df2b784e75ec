"""The adapter itself, and the wrappers that put it after a projection inside a decoder layer."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from qvla.methods.bottleneck.config import ACTIVATIONS, BottleneckConfig, BottleneckError
from qvla.methods.rows import RowLayer, Rows, put, take

MERGE_REFUSAL = (
    "Bottleneck adapters cannot be merged into the base weights because of the non-linearity "
    "between their two projections; keep the adapter loaded, or take it off with unload()."
)


class Bottleneck(nn.Module):
    """o -> o + up(activation(down(dropout(o)))), the adapter of Houlsby et al. with its residual.

    Weights may be float32 under a bfloat16 base (PEFT's master weights): the sum is taken in the
    wider type and rounded once, to the type of `o`.
    """

    def __init__(self, hidden: int, width: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.down = nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[config.activation]
        self.up = nn.Linear(width, hidden)
        for projection in (self.down, self.up):
            nn.init.normal_(projection.weight, std=config.init_std)
            nn.init.zeros_(projection.bias)

    def forward(self, o: torch.Tensor) -> torch.Tensor:  # (..., hidden) -> (..., hidden)
        x = self.dropout(o.to(self.down.weight.dtype))
        return (o + self.up(self.activation(self.down(x)))).to(o.dtype)


class BottleneckLayer(RowLayer):
    """What the two wrappers share: which adapter's module answers for which rows."""

    def _selected(self, batch: torch.Tensor) -> list[tuple[nn.Module, Rows]]:
        modules: nn.ModuleDict = getattr(self, self.adapter_layer_names[0])
        return [(modules[name], rows) for name, rows in self.selected(batch) if name in modules]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise BottleneckError(MERGE_REFUSAL)

    def unmerge(self) -> None:
        raise BottleneckError(MERGE_REFUSAL)


class BottleneckLinear(BottleneckLayer):
    """A projection, plain or quantised, followed by the adapters of its site."""

    adapter_layer_names = ("bottleneck_adapter",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.bottleneck_adapter = nn.ModuleDict()

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        projection: Any = self.get_base_layer()
        hidden = projection.out_features
        self.bottleneck_adapter[adapter_name] = Bottleneck(
            hidden, hidden // config.reduction_factor, config
        )
        self._ready(adapter_name, config)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        o = self.base_layer(x, *args, **kwargs)  # (B, T, hidden)
        for adapter, rows in self._selected(o):
            o = put(o, rows, adapter(take(o, rows)))
        return o


class BottleneckNorm(BottleneckLayer):
    """A normalisation layer with a copy of its own for each adapter that trains it."""

    adapter_layer_names = ("bottleneck_norm",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.bottleneck_norm = nn.ModuleDict()

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        self.bottleneck_norm[adapter_name] = deepcopy(self.get_base_layer())
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        selected = self._selected(x)  # x is (B, T, hidden)
        if selected and selected[0][1] is None:
            return selected[0][0](x, *args, **kwargs)
        normed = self.base_layer(x, *args, **kwargs)
        for norm, rows in selected:
            normed = put(normed, rows, norm(take(x, rows), *args, **kwargs))
        return normed
