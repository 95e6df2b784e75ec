"""A power law through measured points: y = coefficient * x ^ exponent, with the exponent's error.

A straight line through the logarithms by least squares, so that equal ratios weigh the same. The
error is the usual one of a slope, and the interval is Student's (Draper and Smith, Applied
Regression Analysis, 1998, section 1.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvla.errors import QvlaError

CONFIDENCE = 0.95


class FitError(QvlaError):
    """No power law can be fitted to these points; the message says why."""


@dataclass(frozen=True)
class PowerLaw:
    """The fit. `low` and `high` are the ends of the exponent's 95 % interval; `explained` is the
    share of the logarithms' variance that it explains (R squared), from 0 to 1.
    """

    coefficient: float
    exponent: float
    error: float  # the exponent's standard error
    low: float
    high: float
    explained: float
    points: int

    def at(self, x: float) -> float:
        return self.coefficient * x**self.exponent

    def holds(self, exponent: float) -> bool:
        """Whether the interval holds another's exponent."""
        return self.low <= exponent <= self.high


def fit(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fits at least three points of positive values, at two different x at least.

    Raises FitError for others.
    """
    if len(x) != len(y):
        raise FitError("A power law needs one y for every x.")
    if len(x) < 3 or len(set(x)) < 2:
        raise FitError("A power law needs three points at least, and two different x.")
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not (np.isfinite(xs).all() and np.isfinite(ys).all() and min(xs.min(), ys.min()) > 0):
        raise FitError("A power law needs values above zero.")
    across, up = np.log(xs), np.log(ys)  # (N,) each
    centred = across - across.mean()
    spread = float(centred @ centred)
    exponent = float(centred @ up) / spread
    start = float(up.mean()) - exponent * float(across.mean())
    left = up - start - exponent * across  # (N,)
    freedom = len(xs) - 2
    error = float(np.sqrt(left @ left / freedom / spread))
    reach = _student(freedom) * error
    total = float(((up - up.mean()) ** 2).sum())
    return PowerLaw(
        coefficient=float(np.exp(start)),
        exponent=exponent,
        error=error,
        low=exponent - reach,
        high=exponent + reach,
        explained=1 - float(left @ left) / total if total > 0 else 1.0,
        points=len(xs),
    )


def _student(freedom: int) -> float:
    """The quantile of Student's t that leaves 2.5 % above it, found by halving.

    Its distribution has a closed form for whole degrees of freedom (Abramowitz and Stegun, 1964,
    26.7.3 and 26.7.4), so that no statistics library is needed.
    """
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < CONFIDENCE else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """The chance that Student's t lies within -t and t."""
    angle = np.arctan(t / np.sqrt(freedom))
    squared = np.cos(angle) ** 2
    odd = freedom % 2 == 1
    term = float(np.cos(angle)) if odd else 1.0
    terms: NDArray[np.float64] = np.array([])
    for step in range(1 if odd else 0, freedom - 1, 2):
        terms = np.append(terms, term)
        term *= float(squared) * (step + 1) / (step + 2)
    within = float(np.sin(angle)) * float(terms.sum())
    return float(2 / np.pi * (angle + within)) if odd else within
