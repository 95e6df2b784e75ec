from __future__ import annotations

import mmap
import threading
import time
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qvla.records.measure import (
    Meter,
    Samples,
    clock,
    held_memory,
    mapped_bytes,
    measured,
    sampled,
    tensors_measured,
)
from tests.support.waiting import PATIENCE

CPU = torch.device("cpu")
MEBIBYTE = 2**20
needs_linux = pytest.mark.skipif(held_memory(CPU) is None, reason="needs Linux's /proc")


def test_measured_times_its_block() -> None:
    before = clock(CPU)
    with measured(CPU) as usage:
        begun = clock(CPU)
        time.sleep(0.01)
        ended = clock(CPU)
    assert ended - begun <= usage.seconds <= clock(CPU) - before


def test_the_time_of_a_failed_block_is_kept() -> None:
    with pytest.raises(KeyError), measured(CPU) as usage:
        begun = clock(CPU)
        time.sleep(0.01)
        ended = clock(CPU)
        raise KeyError
    assert usage.seconds >= ended - begun


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


@needs_linux
def test_a_meter_tells_what_came_since_it_was_made() -> None:
    meter = Meter(CPU)
    block = _pages(64 * MEBIBYTE)
    assert meter.held() == pytest.approx(64 * MEBIBYTE, rel=0.05)
    meter.reset()
    _pages(32 * MEBIBYTE).close()
    assert meter.peak() == pytest.approx(96 * MEBIBYTE, rel=0.05)
    block.close()
    meter.reset()
    assert meter.peak() < 8 * MEBIBYTE


def _pages(size: int) -> mmap.mmap:
    """The process's own memory, gone when it is closed: malloc may keep what is given back."""
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for start in range(0, size, mmap.PAGESIZE):
        pages[start] = 1
    return pages


@needs_linux
def test_weights_in_a_mapped_file_are_held_and_pages_only_read_are_not(tmp_path: Path) -> None:
    size = 48 * MEBIBYTE
    save_file({"a": torch.ones(size, dtype=torch.uint8)}, tmp_path / "weights.safetensors")
    model = torch.nn.Module()
    torch.ones(size, dtype=torch.uint8).sum()  # what the first sum of a process takes is no weight
    meter = Meter(CPU)
    model.weight = torch.nn.Parameter(
        load_file(tmp_path / "weights.safetensors")["a"], requires_grad=False
    )
    untouched = meter.held(model)
    model.weight.sum()  # brings every page in
    assert mapped_bytes([model.weight, model.weight]) == size  # one place, counted once
    for held in (untouched, meter.held(model)):
        assert held == pytest.approx(size, rel=0.05)
    assert meter.held() < 0.1 * size
    model.weight.data = model.weight.data.clone()  # the file's pages are still there, but unused
    assert meter.held(model) == pytest.approx(size, rel=0.05)
    assert mapped_bytes([torch.ones(8)]) == 0


def test_tensors_are_counted_alone() -> None:
    held = torch.ones(1000)
    with tensors_measured(CPU) as usage:
        first = torch.zeros(5000)
        second = first + 1
        del first
        third = second[:100].clone()
    assert 2 * 5000 * 4 <= usage.peak_bytes < 2 * 5000 * 4 + 100  # and a few numbers in passing
    assert usage.seconds > 0
    with tensors_measured(CPU) as none:
        held.add_(1)
    assert none.peak_bytes < 100
    assert third.sum() == 100


def test_samples_are_taken_beside_the_block() -> None:
    values, enough = count(), threading.Event()

    def read() -> int:
        if (value := next(values)) == 5:
            enough.set()
        return value

    before = time.perf_counter()
    with sampled(read, 0.005) as samples:
        begun = time.perf_counter()
        assert enough.wait(PATIENCE)
        ended = time.perf_counter()
    taken = len(samples.values)
    assert 6 < taken <= 3 + (time.perf_counter() - before) / 0.005  # no more than they should be
    assert samples.values == list(range(taken))  # one at the start and one at the end among them
    assert samples.seconds == sorted(samples.seconds)
    assert samples.seconds[-1] >= ended - begun
    assert "samples" not in {thread.name for thread in threading.enumerate()}  # none come later


def test_thinned_samples_keep_the_highest() -> None:
    many = Samples([second / 100 for second in range(1000)], [second % 7 for second in range(1000)])
    many.values[503] = 99
    few = many.thinned(50)
    assert len(few.values) <= 50
    assert 99 in few.values
    assert few.seconds[few.values.index(99)] == 5.03
    assert few.seconds == sorted(few.seconds)
    assert many.thinned(1000) is many


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_clock_waits_for_the_gpu() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    matrix @ matrix
    for _ in range(50):
        matrix = torch.tanh(matrix @ matrix)
    clock(device)
    assert torch.cuda.current_stream().query()  # nothing is left to do
