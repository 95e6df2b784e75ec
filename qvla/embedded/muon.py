"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) in the weights' own type.

PyTorch's own orthogonalises in bfloat16, which processors without its instructions imitate at a
fifth of the speed of float32: a step of the vision tower then took five times as long.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, the author's
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For matrices alone. Its steps are scaled to AdamW's size (Moonlight, arXiv 2502.16982)."""

    def __init__(
        self,
        matrices: Iterable[torch.Tensor],
        *,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                direction = orthogonal(matrix.grad.lerp(mean, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(direction, alpha=-group["lr"] * 0.2 * sqrt(max(matrix.shape)))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About the nearest matrix with orthonormal rows or columns (its singular values are 0.7 to
    1.2), by Newton-Schulz iterations.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    found = wide / wide.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if matrix.shape[0] > matrix.shape[1] else found
