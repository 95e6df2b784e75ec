"""Two ways of doing the same work, taken in turns, and the figure that comes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from qvla.records.measure import clock

log = logging.getLogger(__name__)

Case = Callable[[int], object]  # does the work of one turn, whose number it is given


@dataclass(frozen=True)
class Figure:
    """One thing measured against another, turn by turn. `values` and `others` go in pairs."""

    name: str  # of the ratio in the record
    ours: str
    other: str
    unit: str  # s, bytes, or /s where more is better
    values: tuple[float, ...]
    others: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median against median: below 1 is less than the other."""
        return median(self.values) / median(self.others)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest ratio of any one turn."""
        ratios = [value / other for value, other in zip(self.values, self.others, strict=True)]
        return min(ratios), max(ratios)


def in_turns(
    cases: Mapping[str, Case], repeats: int, device: torch.device
) -> dict[str, tuple[float, ...]]:
    """Seconds of every case in every turn. Each case runs once before, to warm up.

    The cases follow each other within a turn, so that what drifts on the machine meets them all.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case(0)
    for turn in range(repeats):
        for name, case in cases.items():
            start = clock(device)
            case(turn)
            times[name].append(clock(device) - start)
        log.info("Turn %d of %d of %s.", turn + 1, repeats, ", ".join(cases))
    return {name: tuple(seconds) for name, seconds in times.items()}
