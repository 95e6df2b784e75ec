"""Where a contender's captions become sure or guessing, set on photos that people have captioned.

The quarter of the captions that the model finds likeliest is sure, the least likely quarter is
guessing. Whether the words mean anything is measured beside: the score of each band.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from qvla.captioning.certainty import GUESSING, SURE, WORDS, Thresholds
from qvla.records.store import Record

SHARE = 4  # a quarter
FEWEST = 200  # photos that set thresholds
METRIC = "CIDEr"
APART = 2  # times the guesses' score is the least of the sure captions, or the words say little


def certainty(
    variant: str, log_probabilities: Mapping[str, float], scores: Mapping[str, float]
) -> dict[str, float]:
    """A variant's thresholds, with the photos and the mean score of each band, by a record's keys.

    Both arguments are by photo. Nothing comes of fewer than FEWEST photos that have both.
    """
    photos = sorted(
        log_probabilities.keys() & scores.keys(), key=lambda name: (log_probabilities[name], name)
    )
    if len(photos) < FEWEST:
        return {}
    quarter = len(photos) // SHARE
    thresholds = Thresholds(
        sure=log_probabilities[photos[-quarter]], guessing=log_probabilities[photos[quarter]]
    )
    key = f"certainty/{variant}"
    numbers = {
        f"{key}/{SURE}/from": thresholds.sure,
        f"{key}/{GUESSING}/below": thresholds.guessing,
    }
    for word in WORDS:
        own = [scores[name] for name in photos if thresholds.word(log_probabilities[name]) == word]
        numbers[f"{key}/{word}/images"] = len(own)
        if own:
            numbers[f"{key}/{word}/{METRIC}"] = fmean(own)
    return numbers


def thresholds_of(record: Record, variant: str) -> Thresholds | None:
    """Those that an evaluation set for a variant; None where it set none."""
    key = f"certainty/{variant}"
    sure, guessing = (
        record.numbers.get(f"{key}/{SURE}/from"),
        record.numbers.get(f"{key}/{GUESSING}/below"),
    )
    return None if sure is None or guessing is None else Thresholds(sure, guessing)


def tells_apart(record: Record, variant: str) -> bool:
    """Whether the sure captions of a variant scored at least APART times as high as its guesses."""
    sure, guessing = (
        record.numbers.get(f"certainty/{variant}/{word}/{METRIC}") for word in (SURE, GUESSING)
    )
    return sure is not None and guessing is not None and sure >= APART * guessing
