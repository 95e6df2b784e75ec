"""Time and memory, read only after the device has finished what it was given."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

PROCESS_STATUS = Path("/proc/self/status")
PEAK_RESET = Path("/proc/self/clear_refs")  # writing 5 sets VmHWM back to VmRSS (man 5 proc)


def synchronise(device: torch.device) -> None:
    """Waits until every kernel queued on the device has ended; at once on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> float:
    """Seconds on a monotonic clock, read once the device is idle: only differences mean anything.

    CUDA kernels run behind the caller's back, so a stamp without the wait times their queueing.
    """
    synchronise(device)
    return time.perf_counter()


@dataclass
class Usage:
    """What one `measured` block took. `peak_bytes` is None where it cannot be had."""

    seconds: float = 0.0
    peak_bytes: int | None = None


@contextmanager
def measured(device: torch.device) -> Iterator[Usage]:
    """Times a block and finds the most memory that was held during it.

    On CUDA the peak is PyTorch's allocator's on that device, everything held before included. On
    the CPU it is the resident memory of the whole process. Blocks must not overlap.
    """
    reset_peak_memory(device)
    usage = Usage()
    start = clock(device)
    try:
        yield usage
    finally:
        usage.seconds = clock(device) - start
        usage.peak_bytes = peak_memory(device)


def reset_peak_memory(device: torch.device) -> None:
    """Starts a new peak at what is held now; on the CPU only Linux can do it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif PEAK_RESET.exists():
        PEAK_RESET.write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes of the highest use since `reset_peak_memory`; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _process_memory("VmHWM")


def held_memory(device: torch.device) -> int | None:
    """Bytes held now: by PyTorch's allocator on CUDA, by the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _process_memory("VmRSS")


def _process_memory(field: str) -> int | None:
    if not PROCESS_STATUS.exists():
        return None
    for line in PROCESS_STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None
