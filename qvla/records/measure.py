"""Time and memory, read only after the device has finished what it was given."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

PROCESS_STATUS = Path("/proc/self/status")
PROCESS_MAPS = Path("/proc/self/maps")
PEAK_RESET = Path("/proc/self/clear_refs")  # writing 5 sets VmHWM back to VmRSS (man 5 proc)


def clock(device: torch.device) -> float:
    """`time.perf_counter()`, read once the device has ended every kernel that is queued on it.

    CUDA kernels run behind the caller's back, so a stamp without the wait times their queueing.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def stream_clock(device: torch.device) -> float:
    """The same, read once the stream that this thread works in has ended what is queued on it.

    While another thread records a CUDA graph nobody may wait for the device as a whole, in whatever
    mode it records: both fail (NVIDIA/TensorRT issue 2888).
    """
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
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


def _told(field: str) -> int:
    value = _process_memory(field)
    if value is None:
        raise OSError("This system does not tell how much memory a process holds.")
    return value


class Meter:
    """What a process holds above what it held when the meter was made.

    On CUDA that is what PyTorch's allocator gave out. On the CPU it is the process's own pages
    (RssAnon) and those weights that lie in a mapped file. Resident memory as a whole would also
    count pages of files that were only read in passing, which Linux takes back when it likes: a
    model quantised while it is loaded would seem to hold its unquantised file as well. And it would
    leave out those pages of mapped weights that nothing has touched yet.

    Raises OSError where the system does not tell (on the CPU, only Linux does).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before = self._own()
        self._files = 0

    def held(self, model: torch.nn.Module | None = None) -> int:
        """Bytes now, with those of this model's weights that lie in mapped files."""
        return self._own() - self._before + self._mapped(model)

    def reset(self) -> None:
        """Starts a new peak. What is measured should have run once before: see `peak`."""
        reset_peak_memory(self.device)
        self._files = self._shared()

    def peak(self, model: torch.nn.Module | None = None) -> int:
        """The most since `reset`.

        On the CPU, Linux keeps the peak of resident memory as a whole, from which the pages of
        files are taken off. Should more of them have come in between, the peak is told too low by
        at most those.
        """
        if self.device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self.device)
        else:
            most = _told("VmHWM") - max(self._files, self._shared())
        return most - self._before + self._mapped(model)

    def _own(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return _told("RssAnon")

    def _shared(self) -> int:
        if self.device.type == "cuda":
            return 0
        return _told("RssFile") + _told("RssShmem")

    def _mapped(self, model: torch.nn.Module | None) -> int:
        if model is None or self.device.type == "cuda":
            return 0
        return mapped_bytes([*model.parameters(), *model.buffers()])


def mapped_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the tensors that lie in files mapped into this process, each place counted once."""
    files = list(_mapped_files())
    places = {tensor.data_ptr(): tensor.nbytes for tensor in tensors if tensor.device.type == "cpu"}
    return sum(
        size for place, size in places.items() if any(low <= place < high for low, high in files)
    )


@dataclass
class Samples:
    """What a figure was, again and again: seconds since the start, and values."""

    seconds: list[float] = field(default_factory=list)
    values: list[int] = field(default_factory=list)

    def thinned(self, points: int) -> Samples:
        """At most so many of them: in each of as many equal stretches of time the highest."""
        if len(self.values) <= points:
            return self
        width = self.seconds[-1] / points or 1.0
        best: dict[int, int] = {}
        for index, second in enumerate(self.seconds):
            stretch = min(int(second / width), points - 1)
            if stretch not in best or self.values[index] > self.values[best[stretch]]:
                best[stretch] = index
        kept = sorted(best.values())
        return Samples([self.seconds[i] for i in kept], [self.values[i] for i in kept])


@contextmanager
def sampled(read: Callable[[], int], interval: float) -> Iterator[Samples]:
    """Reads a figure every `interval` seconds during a block, in a thread beside it."""
    samples = Samples()
    ended = threading.Event()
    start = time.perf_counter()

    def sample() -> None:
        samples.seconds.append(time.perf_counter() - start)
        samples.values.append(read())

    def keep_sampling() -> None:
        while not ended.wait(interval):
            sample()

    sample()
    thread = threading.Thread(target=keep_sampling, name="samples", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
        sample()


@contextmanager
def tensors_measured(device: torch.device) -> Iterator[Usage]:
    """Finds the most that tensors took during a block above what they took at its start.

    From PyTorch's allocator on either device, so that neither the process's other memory nor what
    the C library keeps for later is counted. On the CPU that takes PyTorch's profiler, which makes
    the block slower.
    """
    usage = Usage()
    start = clock(device)
    if device.type == "cuda":
        reset_peak_memory(device)
        held = torch.cuda.memory_allocated(device)
        yield usage
        usage.seconds = clock(device) - start
        usage.peak_bytes = torch.cuda.max_memory_allocated(device) - held
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield usage
    usage.seconds = clock(device) - start
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = most = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        held += change
        most = max(most, held)
    usage.peak_bytes = most


def _mapped_files() -> Iterator[tuple[int, int]]:
    """First and last address of each stretch of memory that is a file on disk."""
    if not PROCESS_MAPS.exists():
        return
    for line in PROCESS_MAPS.read_text().splitlines():
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            low, _, high = addresses.partition("-")
            yield int(low, 16), int(high, 16)


def give_back_memory() -> None:
    """Has glibc return to the system what it keeps of freed memory; elsewhere does nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
