"""The usual GPUs and whether a plan fits them.

Sizes are what `nvidia-smi` shows (with ECC where the card has it switched on), not what the data
sheet rounds to: an "80 GB" H100 shows 81,559 MiB and a "24 GB" L4 23,034.
"""

from __future__ import annotations

MEBIBYTE = 2**20

GPUS: dict[str, int] = {
    "T4 16 GB": 15_360 * MEBIBYTE,
    "V100 16 GB": 16_384 * MEBIBYTE,
    "A10G 24 GB": 23_028 * MEBIBYTE,
    "L4 24 GB": 23_034 * MEBIBYTE,
    "RTX 3090 24 GB": 24_576 * MEBIBYTE,
    "RTX 4090 24 GB": 24_564 * MEBIBYTE,
    "V100 32 GB": 32_768 * MEBIBYTE,
    "A100 40 GB": 40_960 * MEBIBYTE,
    "L40S 48 GB": 46_068 * MEBIBYTE,
    "A100 80 GB": 81_920 * MEBIBYTE,
    "H100 80 GB": 81_559 * MEBIBYTE,
    "H200 141 GB": 143_771 * MEBIBYTE,
}

# Of a card, left free: the driver keeps one to five hundredths of it, and the allocator's blocks
# never fit each other without gaps.
MARGIN = 0.1


def fits(size: int, capacity: int) -> bool:
    """Whether so many bytes leave at least the margin of a card free."""
    return size <= (1 - MARGIN) * capacity


def fitting(size: int) -> list[tuple[str, int, bool]]:
    """Name, capacity in bytes and whether it fits, of every usual GPU, the smallest first."""
    ordered = sorted(GPUS.items(), key=lambda item: item[1])
    return [(name, capacity, fits(size, capacity)) for name, capacity in ordered]


def fits_on(gpu: str, size: int) -> bool:
    """Whether so many bytes fit a usual GPU, by its name here."""
    return fits(size, GPUS[gpu])
