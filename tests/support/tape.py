"""What a CUDA graph does, on any device: operations recorded once, and made again as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What hands a number to Python, or a tensor from it: a graph would keep what it was when recorded.
FORBIDDEN = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::is_nonzero",
    "aten::lift_fresh",
    "aten::equal",
}


class Tape(TorchDispatchMode):
    """Records the operations below it; `play` makes them again without any Python of the model.

    As in a graph, results lie where they lay at the first time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        name = function._schema.name
        assert name not in FORBIDDEN, f"{name} cannot be recorded"
        result = function(*arguments, **(options or {}))
        self._made.append((function, arguments, options or {}, result))
        return result

    def play(self) -> None:
        for function, arguments, options, result in self._made:
            again = function(*arguments, **options)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def taped(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Records work, as `qvla.captioning.graphs.cuda_graph` does on CUDA."""
    for _ in range(2):
        work()
    with (tape := Tape()):
        result = work()

    def again() -> torch.Tensor:
        tape.play()
        return result

    return again
