"""The adapter itself, and the wrappers that put it after a projection inside a decoder layer."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from qvla.methods.bottleneck.config import ACTIVATIONS, BottleneckConfig, BottleneckError

BASE = "__base__"  # PEFT's name, in a mixed batch, for rows that no adapter touches

MERGE_REFUSAL = (
    "Bottleneck adapters cannot be merged into the base weights because of the non-linearity "
    "between their two projections; keep the adapter loaded, or take it off with unload()."
)

# None: every row of the batch. A slice where the rows lie together, which costs no copy.
Rows = slice | torch.Tensor | None


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


class MixedBatch:
    """The adapter's name of each row of a batch, as runs of rows that an adapter can take at once.

    `generate` repeats every row for beams and returned sequences; a batch may therefore hold any
    whole multiple of the names, each repeated in place.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._groups: dict[tuple[int, torch.device], list[tuple[str, Rows]]] = {}

    def groups(self, batch: torch.Tensor) -> list[tuple[str, Rows]]:
        """Names with their rows of `batch` (B, ...), rows of the base left out."""
        key = (len(batch), batch.device)
        if key not in self._groups:
            self._groups[key] = list(self._group(*key))
        return self._groups[key]

    def _group(self, size: int, device: torch.device) -> list[tuple[str, Rows]]:
        repeats, rest = divmod(size, len(self.names))
        if rest or not repeats:
            raise BottleneckError(
                f"The batch has {size} rows but adapter_names has {len(self.names)}: give one name "
                "a row."
            )
        names = [name for name in self.names for _ in range(repeats)]
        groups: list[tuple[str, Rows]] = []
        for name in dict.fromkeys(names):
            if name == BASE:
                continue
            rows = [row for row, owner in enumerate(names) if owner == name]
            if len(rows) == size:
                groups.append((name, None))
            elif rows[-1] - rows[0] + 1 == len(rows):
                groups.append((name, slice(rows[0], rows[-1] + 1)))
            else:
                groups.append((name, torch.tensor(rows, device=device)))
        return groups


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """What the two wrappers share: which adapter's module answers for which rows."""

    mixed_batch: MixedBatch | None = None  # set by the tuner for the time of one call

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters: list[str] = []

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Adds an adapter; each of the two wrappers has its own."""
        raise NotImplementedError

    def _selected(self, batch: torch.Tensor) -> list[tuple[nn.Module, Rows]]:
        modules: nn.ModuleDict = getattr(self, self.adapter_layer_names[0])
        if self.disable_adapters:
            return []
        if self.mixed_batch is None:
            return [(modules[name], None) for name in self.active_adapters if name in modules]
        groups = self.mixed_batch.groups(batch)
        return [(modules[name], rows) for name, rows in groups if name in modules]

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
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        o = self.base_layer(x, *args, **kwargs)  # (B, T, hidden)
        for adapter, rows in self._selected(o):
            o = _put(o, rows, adapter(_take(o, rows)))
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
            normed = _put(normed, rows, norm(_take(x, rows), *args, **kwargs))
        return normed


def _take(batch: torch.Tensor, rows: Rows) -> torch.Tensor:
    if rows is None:
        return batch
    return batch[rows] if isinstance(rows, slice) else batch.index_select(0, rows)


def _put(batch: torch.Tensor, rows: Rows, values: torch.Tensor) -> torch.Tensor:
    if rows is None:
        return values
    # Never in place: the backward pass may still need the batch as it was.
    if isinstance(rows, slice):
        return batch.slice_scatter(values, 0, rows.start, rows.stop)
    return batch.index_copy(0, rows, values)
