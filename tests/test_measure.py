from __future__ import annotations

import time

import pytest
import torch

from qvla.measure import clock, held_memory, measured

CPU = torch.device("cpu")
MEBIBYTE = 2**20
needs_linux = pytest.mark.skipif(held_memory(CPU) is None, reason="needs Linux's /proc")


def test_measured_times_its_block() -> None:
    with measured(CPU) as usage:
        time.sleep(0.05)
    assert 0.05 <= usage.seconds < 1


def test_the_time_of_a_failed_block_is_kept() -> None:
    with pytest.raises(KeyError), measured(CPU) as usage:
        time.sleep(0.01)
        raise KeyError
    assert usage.seconds >= 0.01


@needs_linux
def test_peak_memory_is_that_of_the_block() -> None:
    with measured(CPU) as large:
        held = held_memory(CPU)
        block = torch.ones(64 * MEBIBYTE, dtype=torch.uint8)
        del block  # gone before the end, but it was there
    with measured(CPU) as small:
        pass
    assert large.peak_bytes >= held + 56 * MEBIBYTE
    assert small.peak_bytes < large.peak_bytes - 32 * MEBIBYTE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_clock_waits_for_the_gpu() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    matrix @ matrix
    start = clock(device)
    for _ in range(50):
        matrix = torch.tanh(matrix @ matrix)
    queued = time.perf_counter() - start
    ended = clock(device) - start
    assert ended > 2 * queued
