from __future__ import annotations

import pytest

from qvla.captioning.certainty import Thresholds, repeated


def test_a_word_begins_at_its_threshold() -> None:
    thresholds = Thresholds(sure=-0.3, guessing=-0.9)
    said = [thresholds.word(value) for value in (-0.1, -0.3, -0.301, -0.9, -0.901)]
    assert said == ["sure", "sure", "unsure", "unsure", "guessing"]


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("many many many buildings are here .", "many"),
        ("green trees , green trees and Green trees .", "green trees"),
        ("a road next to a river next to a field next to a road", "next to a"),
        ("many trees are in a park , many trees near many trees", ""),  # apart, and only two words
        ("a house in a field in a park", ""),
        ("some green trees are there and some green trees .", ""),  # twice
        ("", ""),
    ],
)
def test_a_phrase_said_three_times_is_found(text: str, phrase: str) -> None:
    assert repeated(text) == phrase
