"""Tuners whose layers take a name for each row of a batch, PEFT's `adapter_names`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeGuard

import torch

from qvla.methods.tuner import OwnLayer, OwnTuner, TunerError

BASE = "__base__"  # PEFT's name, in a mixed batch, for rows that no adapter touches

# None: every row of the batch. A slice where the rows lie together, which costs no copy. A tensor
# of indices, or of bool (B,): then every row is computed, and kept where it is true.
Rows = slice | torch.Tensor | None


class MixedBatch:
    """The name of each row of a batch, as runs of rows that can be taken at once.

    `generate` repeats every row for beams and returned sequences; a batch may therefore hold any
    whole multiple of the names, each repeated in place.
    """

    def __init__(self, names: Sequence[str], fault: type[TunerError] = TunerError) -> None:
        self.names = list(names)
        self._fault = fault
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
            raise self._fault(
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


class StandingBatch(MixedBatch):
    """Rows whose names may change while a step recorded once is made again and again.

    Every adapter works on every row, and a mask on the device says whose answer is kept.
    """

    def __init__(self, names: Sequence[str], known: Sequence[str], device: torch.device) -> None:
        """`known` are all names that a row may come to have."""
        super().__init__(names)
        self._masks = {
            name: torch.zeros(len(names), dtype=torch.bool, device=device)
            for name in dict.fromkeys(known)
            if name != BASE
        }
        self.rename(names)

    def rename(self, names: Sequence[str]) -> None:
        """Gives the rows other names, as many as there were."""
        self.names = list(names)
        for name, mask in self._masks.items():
            mask.copy_(torch.tensor([owner == name for owner in names]))

    def groups(self, batch: torch.Tensor) -> list[tuple[str, Rows]]:
        return list(self._masks.items())


class RowLayer(OwnLayer):
    """A wrapper that asks, for each batch, which rows are whose."""

    mixed_batch: MixedBatch | None = None  # set by the tuner for the time of one call

    def selected(self, batch: torch.Tensor) -> list[tuple[str, Rows]]:
        """Names of what answers, with the rows of `batch` (B, ...) that it answers for."""
        if self.disable_adapters:
            return []
        if self.mixed_batch is None:
            return [(name, None) for name in self.answering()]
        return self.mixed_batch.groups(batch)


class RowTuner(OwnTuner):
    """A tuner that honours `adapter_names`, one a row."""

    trains_mixed: ClassVar[bool] = False  # whether rows may differ in training too

    def row_names(self) -> list[str]:
        """The names that a row may have."""
        return [*self.peft_config, BASE]

    def row_name(self, adapter: str, task: str) -> str:
        """The name of a row of that adapter whose prompt is for that task."""
        return adapter

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Honours the names for the time of one `forward` or `generate`.

        Like PEFT's active adapter, the names belong to the model: one call at a time. In training
        they stay until the next call, since checkpointed layers run again in the backward pass.
        """
        names = kwargs.get("adapter_names")
        batch = names if isinstance(names, MixedBatch) else None
        if names is not None:
            own = names if batch is None else batch.names
            self._check_names(own, _batch_size(args, kwargs))
            batch = batch or MixedBatch(own, self.fault)
        self._give(batch)
        try:
            yield
        finally:
            if not self.training:
                self._give(None)

    def _give(self, batch: MixedBatch | None) -> None:
        for module in self.modules():
            if isinstance(module, RowLayer):
                module.mixed_batch = batch

    def _check_names(self, names: Sequence[str], batch_size: int | None) -> None:
        if isinstance(names, str) or not names:
            raise self.fault("adapter_names must be a list with one name for each row.")
        if self.training and not self.trains_mixed:
            raise self.fault(
                "adapter_names works only for inference: call eval() on the model first, or train "
                "one adapter at a time with set_adapter()."
            )
        known = self.row_names()
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise self.fault(f"There is no adapter {unknown[0]!r}: loaded are {', '.join(known)}.")
        if batch_size is not None and batch_size != len(names):
            raise self.fault(
                f"The batch has {batch_size} rows but adapter_names has {len(names)}: give one "
                "name a row."
            )


def names_of_rows(
    model: Any, tasks: Sequence[str], adapters: Sequence[str] | None = None
) -> list[str] | None:
    """`adapter_names` of rows whose prompts are for these tasks; None where none is needed.

    `adapters` are the rows' own; without any, all are of the one that is active, which needs names
    only where it distinguishes tasks.
    """
    tuner = getattr(model, "base_model", None)
    if not isinstance(tuner, RowTuner):
        return None if adapters is None else list(adapters)
    own = adapters or [model.active_adapter] * len(tasks)
    names = [tuner.row_name(name, task) for name, task in zip(own, tasks, strict=True)]
    return None if adapters is None and names == own else names


def take(batch: torch.Tensor, rows: Rows) -> torch.Tensor:
    """The rows of a batch (B, ...), or all of it where a mask is to choose later."""
    if rows is None or _is_mask(rows):
        return batch
    return batch[rows] if isinstance(rows, slice) else batch.index_select(0, rows)


def put(batch: torch.Tensor, rows: Rows, values: torch.Tensor) -> torch.Tensor:
    """The batch with its rows replaced by `values`."""
    if rows is None:
        return values
    # Never in place: the backward pass may still need the batch as it was.
    if isinstance(rows, slice):
        return batch.slice_scatter(values, 0, rows.start, rows.stop)
    if _is_mask(rows):
        return torch.where(rows.view(-1, *[1] * (batch.dim() - 1)), values, batch)
    return batch.index_copy(0, rows, values)


def _is_mask(rows: Rows) -> TypeGuard[torch.Tensor]:
    return isinstance(rows, torch.Tensor) and rows.dtype == torch.bool


def _batch_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Rows that the caller passes, where that can be told; `generate` may repeat them later."""
    inputs = [kwargs.get(name) for name in ("input_ids", "inputs", "inputs_embeds")]
    tensors = [value for value in [*inputs, *args] if isinstance(value, torch.Tensor)]
    return len(tensors[0]) if tensors else None
