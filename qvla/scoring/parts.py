"""What each photo adds to a score of all photos, and how that score follows from the sums.

The scoring is pycocoevalcap's: CIDEr (Vedantam et al. 2015; its code is the CIDEr-D of that paper),
BLEU (Papineni et al. 2002) with the closest reference length, and ROUGE-L (Lin 2004). Captions come
here as they are to be compared; words are what white space separates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer, precook
from pycocoevalcap.rouge.rouge import Rouge

from qvla.scoring.remembered import Remembered

ORDERS = 4
BLEU = tuple(f"BLEU-{order}" for order in range(1, ORDERS + 1))
METRICS = ("CIDEr", *BLEU, "ROUGE-L")  # those that need no Java

# pycocoevalcap's own guards against a division by zero, needed to arrive at the same BLEU.
SMALL, TINY = 1e-9, 1e-15

MOST = 32_768  # captions whose counts are kept, about 50 MB


@dataclass(frozen=True)
class Parts:
    """Scores of a set of captions in a form that can be resampled.

    values: one score of all photos a metric. photos: (photos, metrics), the scores of each alone.
    sums: (photos, counts), what each photo adds to the counts that a score is made of.
    pool: from sums over photos (sets, counts) and how many photos each had (one number for all) to
    scores (sets, metrics).
    """

    metrics: tuple[str, ...]
    values: tuple[float, ...]
    photos: np.ndarray
    sums: np.ndarray
    pool: Callable[[np.ndarray, int], np.ndarray]


def measure(
    references: Sequence[Sequence[str]], captions: Sequence[str], metrics: Collection[str]
) -> list[Parts]:
    """The parts of those families of METRICS that have one of these metrics."""
    families = (_cider, ("CIDEr",)), (_bleu, BLEU), (_rouge, ("ROUGE-L",))
    return [
        family(references, captions)
        for family, names in families
        if not set(names).isdisjoint(metrics)
    ]


def _cider(references: Sequence[Sequence[str]], captions: Sequence[str]) -> Parts:
    distinct = {text for texts in references for text in texts} | set(captions)
    ngrams = {text: precook(text) for text in distinct}  # cooked once however often it is said
    scorer = CiderScorer(n=ORDERS)
    scorer.crefs = [[ngrams[text] for text in texts] for texts in references]
    scorer.ctest = [ngrams[text] for text in captions]
    value, photos = scorer.compute_score()
    return _means("CIDEr", value, photos)


def _rouge(references: Sequence[Sequence[str]], captions: Sequence[str]) -> Parts:
    photos = np.array(_overlaps(_pairs(references, captions)))
    return _means("ROUGE-L", np.mean(photos), photos)


def _means(metric: str, value: float, photos: np.ndarray) -> Parts:
    column = np.asarray(photos, dtype=float)[:, None]
    return Parts((metric,), (float(value),), column, column, lambda sums, count: sums / count)


def _bleu(references: Sequence[Sequence[str]], captions: Sequence[str]) -> Parts:
    scorer = BleuScorer(n=ORDERS)
    scorer.ctest = _matches(_pairs(references, captions))
    values, photos = scorer.compute_score(option="closest")
    sums = np.array(
        [
            (
                *counts["correct"],
                *counts["guess"],
                counts["testlen"],
                min((abs(length - counts["testlen"]), length) for length in counts["reflen"])[1],
            )
            for counts in scorer.ctest
        ],
        dtype=float,
    )
    return Parts(BLEU, tuple(map(float, values)), np.transpose(photos), sums, _pool_bleu)


def _pool_bleu(sums: np.ndarray, count: int) -> np.ndarray:
    """BLEU-1 to 4 from sums of clipped matches, guesses (by order), words said, words to say."""
    correct, guesses = sums[:, :ORDERS], sums[:, ORDERS : 2 * ORDERS]
    products = np.cumprod((correct + TINY) / (guesses + SMALL), axis=1)
    ratio = (sums[:, -2] + TINY) / (sums[:, -1] + SMALL)
    brevity = np.exp(np.minimum(0, 1 - 1 / ratio))
    return products ** (1 / np.arange(1, ORDERS + 1)) * brevity[:, None]


def _pairs(
    references: Sequence[Sequence[str]], captions: Sequence[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Captions with their distinct references: BLEU and ROUGE-L take the best of these, so one that
    is there twice changes nothing."""
    for texts, caption in zip(references, captions, strict=True):
        yield caption, tuple(dict.fromkeys(texts))


def _match(pairs: list[tuple[str, tuple[str, ...]]]) -> list[dict[str, Any]]:
    scorer = BleuScorer(n=ORDERS)
    for caption, texts in pairs:
        scorer += (caption, texts)
    return scorer.ctest


def _overlap(pairs: list[tuple[str, tuple[str, ...]]]) -> list[float]:
    rouge = Rouge()
    return [rouge.calc_score([caption], texts) for caption, texts in pairs]


# What a photo adds to BLEU and ROUGE-L hangs on nothing but its own captions, so groups of photos
# need not be gone through again.
_matches = Remembered(_match, MOST)
_overlaps = Remembered(_overlap, MOST)
