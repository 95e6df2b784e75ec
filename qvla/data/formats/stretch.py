"""Samples deeper than 8 bits to grey: a stretch by percentiles that fill cannot own.

Products seldom declare what they fill with: -9999, -32768, 0, 65535. Such a value lies at an end of
the range, covers an area, and stands apart from every measured value. It is then taken for no data,
which becomes black. Another flat value that stands as far apart only loses its say in the stretch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PERCENTILES = (2.0, 98.0)  # that become black and white
SAMPLES = 1_000_000  # values enough to find them
CHUNK = 2**20  # values that are turned into grey at once
NO_MEASUREMENT = 1e30  # undeclared nodata is often the largest negative float
USUAL_FILL = (0, -999, -9999, -99999, -32767, -32768, 65535, 1e20, -1e20)
LEAST_FILL = 0.001  # of the values
KNOWN_GAP, OTHER_GAP = 0.05, 0.25  # to the next value, as a share of the range of the others
LEAST_OTHERS = 0.1  # of the values, where the flat one is not known for fill


def to_grey(
    values: np.ndarray, valid: np.ndarray | None = None
) -> tuple[np.ndarray, dict[float, float]]:
    """One band (H, W) of any number type as uint8 (H, W), which uint8 is already.

    Also returns the values that were taken for no data, with the share of the picture of each.

    Where it is stretched, values that are not `valid`, infinite, NaN or fill become black.
    """
    if values.dtype == np.uint8:
        return values, {}
    if np.iscomplexobj(values):  # radar: the magnitude is the picture
        values = np.abs(values)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            measured = np.abs(values) < NO_MEASUREMENT  # also false for NaN
        valid = measured if valid is None else valid & measured
    known = values.ravel() if valid is None else values[valid]
    if known.size == 0:
        return np.zeros(values.shape, np.uint8), {}
    levels = _levels(known)
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, CHUNK // values.shape[1])
    for top in range(0, len(values), rows):
        part = slice(top, top + rows)
        black = np.isin(values[part], list(levels.fill))
        if valid is not None:
            black |= ~valid[part]
        grey[part] = _scaled(values[part], black, levels)
    return grey, levels.fill


@dataclass(frozen=True)
class _Levels:
    low: float
    high: float
    fill: dict[float, float]


def _levels(known: np.ndarray) -> _Levels:
    """The values that become black and white, and those that are no data."""
    sample = known[:: max(1, known.size // SAMPLES)]
    total = sample.size
    fill: dict[float, float] = {}
    while (found := _flat_end(sample, KNOWN_GAP, known.dtype)) is not None and len(fill) < 4:
        value, others = found
        fill[value] = (sample.size - others.size) / total
        sample = others
    flat = _flat_end(sample, OTHER_GAP)
    low, high = np.percentile(sample if flat is None else flat[1], PERCENTILES)
    if known.dtype.kind == "u" and low == 0 < high:  # Landsat and Sentinel-2 fill with 0
        fill[0] = np.count_nonzero(sample == 0) / total
        sample = sample[sample > 0]
        low, high = np.percentile(sample, PERCENTILES)
    if low == high:  # nearly constant: what little differs still shows
        rest = known[~np.isin(known, list(fill))]
        low, high = rest.min(), rest.max()
    return _Levels(float(low), float(high), fill)


def _flat_end(
    sample: np.ndarray, least_gap: float, dtype: np.dtype | None = None
) -> tuple[float, np.ndarray] | None:
    """The lowest or highest value where it is flat and far from all others, and those others.

    With `dtype`, only values that are in use as fill for it.
    """
    for end, sign in ((sample.min(), 1), (sample.max(), -1)):
        if dtype is not None and not _in_use(end, dtype):
            continue
        others = sample[sample != end]
        share = 1 - others.size / sample.size
        if others.size == 0 or share < LEAST_FILL:
            continue
        if dtype is None and others.size < LEAST_OTHERS * sample.size:
            continue
        nearest = float(others.min() if sign > 0 else others.max())
        below, above = np.percentile(others, PERCENTILES)
        if below == above and (dtype is None or end == 0):
            continue  # two values alone are a mask, not a picture with fill
        if sign * (nearest - float(end)) > least_gap * float(above - below):
            return float(end), others
    return None


def _in_use(value: float, dtype: np.dtype) -> bool:
    if dtype.kind in "iu" and value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        return True
    return any(value == dtype.type(usual) for usual in USUAL_FILL if _holds(dtype, usual))


def _holds(dtype: np.dtype, value: float) -> bool:
    if dtype.kind == "f":
        return True
    return value == int(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def _scaled(values: np.ndarray, black: np.ndarray, levels: _Levels) -> np.ndarray:
    values = values.astype(np.float64)
    values[black] = levels.low
    values -= levels.low
    span = levels.high - levels.low
    values *= 255 / span if span > 0 else 0
    grey = values.clip(0, 255).round().astype(np.uint8)
    if span <= 0:
        grey[:] = 128  # a constant band says nothing: neither black nor white
    grey[black] = 0
    return grey
