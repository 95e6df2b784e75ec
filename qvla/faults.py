"""Reading what libraries raise, for the sentences that users are told instead."""

from __future__ import annotations

# What PyTorch's allocators, CUDA and the operating system say.
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the CPU."""
    import torch  # here, because the page tells of faults before PyTorch is there

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(s in text for s in _OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """An error's class and the first line of its text, short enough for a sentence."""
    line = next(iter(str(error).strip().splitlines()), "").strip().rstrip(".:")
    return f"{type(error).__name__}: {line}"[:200] if line else type(error).__name__
