"""The optimiser of the embedded model's matrices, against PyTorch's own, which is in bfloat16."""

from __future__ import annotations

import pytest
import torch

from qvla.embedded.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (12, 12)], ids=str)
def test_its_steps_are_those_of_pytorch(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=draw)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    steps = {"lr": 0.05, "weight_decay": 0.1}
    optimisers = (
        Muon([ours], **steps),
        torch.optim.Muon([theirs], **steps, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        gradient = torch.randn(shape, generator=draw)
        for matrix, optimiser in zip((ours, theirs), optimisers, strict=True):
            matrix.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)  # bfloat16 has 8 bits
    assert (ours - start).norm() > 10 * (ours - theirs).norm()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)], ids=str)
def test_what_it_takes_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix)
    left, values, right = torch.linalg.svd(found, full_matrices=False)
    assert values.min() > 0.6 and values.max() < 1.3
    own_left, _, own_right = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(left @ right, own_left @ own_right, atol=1e-4, rtol=0)
