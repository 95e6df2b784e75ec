"""The words for certainty, against a plain sort into quarters and against what ships."""

from __future__ import annotations

import random

import pytest

from qvla.evaluation.certainty import FEWEST, certainty, tells_apart, thresholds_of
from qvla.records import store as records


def test_a_quarter_is_sure_and_a_quarter_guesses() -> None:
    rng = random.Random(0)
    likely = {f"{number}.png": -rng.random() for number in range(400)}
    scores = {name: 2 + value for name, value in likely.items()}
    numbers = certainty("adapter", likely, scores)
    ordered = sorted(likely.values())
    assert numbers["certainty/adapter/guessing/below"] == ordered[100]
    assert numbers["certainty/adapter/sure/from"] == ordered[300]
    for word, band in {
        "guessing": ordered[:100],
        "unsure": ordered[100:300],
        "sure": ordered[300:],
    }.items():
        assert numbers[f"certainty/adapter/{word}/images"] == len(band)
        mean = sum(2 + value for value in band) / len(band)
        assert numbers[f"certainty/adapter/{word}/CIDEr"] == pytest.approx(mean)


def test_few_photos_set_nothing() -> None:
    likely = {f"{number}.png": -number / 9 for number in range(FEWEST)}
    scores = dict.fromkeys(likely, 1.0)
    assert certainty("adapter", likely, scores)
    scores.popitem()
    assert certainty("adapter", likely, scores) == {}


def test_captions_that_are_all_as_likely_are_sure() -> None:
    names = [f"{number}.png" for number in range(FEWEST)]
    numbers = certainty("base", dict.fromkeys(names, -1.0), dict.fromkeys(names, 0.5))
    assert numbers["certainty/base/sure/images"] == FEWEST
    assert "certainty/base/guessing/CIDEr" not in numbers


def test_what_ships_is_sure_where_it_is_right() -> None:
    shipped = records.find("evaluation", [records.SHIPPED], pytest.fail)
    found = [one.record.numbers for one in shipped if thresholds_of(one.record, "adapter")]
    assert len(found) == 2  # of the sets that the model was made for, and of one from elsewhere
    for numbers in found:
        for name in ("adapter", "qvla"):
            sure = numbers[f"certainty/{name}/sure/CIDEr"]
            assert sure >= 2 * numbers[f"certainty/{name}/guessing/CIDEr"]


def test_words_are_told_apart_by_twice_the_score() -> None:
    def measured(**scores: float) -> records.Record:
        numbers = {f"certainty/own/{word}/CIDEr": score for word, score in scores.items()}
        about = {"model": "made-up", "variants": ["own"], "data": None, "protocol": {}}
        return records.new_record("evaluation", numbers=numbers, **about)

    assert tells_apart(measured(sure=1.0, guessing=0.5), "own")
    assert not tells_apart(measured(sure=0.99, guessing=0.5), "own")
    assert not tells_apart(measured(sure=1.0), "own")
    assert not tells_apart(measured(sure=1.0, guessing=0.5), "other")
