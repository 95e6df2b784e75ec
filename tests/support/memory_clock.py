"""A clock on which time passes only while weights are read, so that benchmarks can be foretold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import nn

from qvla.bench import arrangements, latency, turns
from qvla.captioning import cohort, desk
from qvla.captioning.lineup import Lineup
from tests.support.held import module_trees

SPEED = 1e6  # bytes a second
SLOWEST = 1.3  # some decoding steps take so many times as long


class MemoryClock:
    def __init__(self) -> None:
        self.seconds = 0.0
        self._slower = cycle((1.0, 1.1, SLOWEST, 1.2, 1.05))  # not in step with anything
        self._factor = next(self._slower)

    def __call__(self, device: torch.device | None = None) -> float:
        return self.seconds

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """The latency suite goes by this clock, and finds that the device reads at `SPEED`."""
        load = arrangements.load_lineup

        def load_and_watch(*arguments: object) -> Lineup:
            lineup = load(*arguments)
            for model in module_trees(lineup):
                self._watch(model)
            return lineup

        patch.setattr(arrangements, "load_lineup", load_and_watch)
        patch.setattr(latency, "seconds_to_read", lambda size, device: size / SPEED)
        patch.setattr(cohort, "perf_counter", self)
        patch.setattr(desk, "stream_clock", self)
        patch.setattr(turns, "clock", self)

    def _watch(self, model: nn.Module) -> None:
        head = model.get_output_embeddings()
        for module in model.modules():
            weights = list(module.parameters(recurse=False))
            if module is head:
                weights += module.buffers(recurse=False)
            # Of a table of tokens a step reads but a row, until the head reads it all.
            if weights and not isinstance(module, nn.Embedding):
                size = sum(tensor.nbytes for tensor in weights)
                if isinstance(module, Linear4bit):
                    state = module.weight.quant_state
                    size += sum(tensor.nbytes for tensor in _tensors(state))
                module.register_forward_hook(self._reading(size, is_last=module is head))

    def _reading(self, size: int, *, is_last: bool) -> Callable[..., None]:
        def read(*_: object) -> None:
            self.seconds += self._factor * size / SPEED
            if is_last:
                self._factor = next(self._slower)

        return read


def _tensors(state: object) -> Iterator[torch.Tensor]:
    """All of a quantisation state, with the state of its own scales."""
    for value in vars(state).values():
        if isinstance(value, torch.Tensor):
            yield value
    if getattr(state, "state2", None) is not None:
        yield from _tensors(state.state2)
