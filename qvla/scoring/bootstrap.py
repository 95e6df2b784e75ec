"""How far scores would move with other photos: the bootstrap over photos.

Photos are drawn with replacement, as many as there are, and the set is scored again from what each
adds to the score. Intervals are percentile intervals (Efron and Tibshirani 1993, chapter 13); two
systems are compared on the same draws (Koehn 2004, "Statistical significance tests for machine
translation evaluation").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qvla.scoring.parts import Parts

LEVEL = 0.95
ROUNDING = 1e-12
BLOCK = 2**21  # draws held at once

# Said wherever intervals are shown: a resample of photos is also one of documents, and counting
# n-grams anew for each would cost a thousand scorings.
DOCUMENT_FREQUENCIES = "held fixed at those of the references of all scored photos"


def resampled(parts: Sequence[Parts], resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Each metric's score of every resample: arrays of length `resamples`.

    The draws depend on the number of photos and the seed alone, so scores of several systems on
    the same photos can be set against each other draw by draw.
    """
    photos = len(parts[0].sums)
    sums = np.concatenate([part.sums for part in parts], axis=1)
    totals = np.concatenate([times @ sums for times in draws(photos, resamples, seed)])
    ends = np.cumsum([part.sums.shape[1] for part in parts])[:-1]
    scores: dict[str, np.ndarray] = {}
    for part, own in zip(parts, np.split(totals, ends, axis=1), strict=True):
        scores.update(zip(part.metrics, part.pool(own, photos).T, strict=True))
    return scores


def interval(scores: np.ndarray, value: float) -> tuple[float, float]:
    """The ends of the 95 % percentile interval of a score.

    An end that is off the score by no more than rounding is the score itself: so where all photos
    score the same, the interval still holds it.
    """
    ends = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = np.where(np.abs(ends - value) < ROUNDING, value, ends).tolist()
    return low, high


def p_value(differences: np.ndarray) -> float:
    """Twice the share of resamples in which the difference is not on the commoner side of 0.

    One is added to the count and to the number of resamples (Davison and Hinkley 1997, section
    4.2), for no finite number of draws shows that a share is 0.
    """
    rarer = min(int(np.sum(differences <= 0)), int(np.sum(differences >= 0)))
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))


def draws(photos: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each photo is drawn, in blocks of resamples: (some, photos)."""
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // photos)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(photos, size=(rows, photos))
        drawn += np.arange(rows)[:, None] * photos
        times = np.bincount(drawn.ravel(), minlength=rows * photos)
        yield times.reshape(rows, photos).astype(float)
