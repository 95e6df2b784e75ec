"""Strengths from votes, against closed forms and another algorithm for the same likelihood."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from qvla.scoring.preferences import Choice, preferences


def votes(names: str, chosen: str | None, times: int) -> list[Choice]:
    return [Choice(tuple(names), chosen)] * times


def by_minorisation(choices: Sequence[Choice], names: Sequence[str]) -> dict[str, float]:
    """Strengths by D. R. Hunter's MM algorithm (Annals of Statistics 32, 2004), over the same votes
    and the tie of every two.
    """
    pairs = itertools.combinations(names, 2)
    everything = [*choices, *(Choice(pair, None) for pair in pairs)]
    wins = dict.fromkeys(names, 0.0)
    for one in everything:
        for name in one.shown if one.chosen is None else [one.chosen]:
            wins[name] += 1 / len(one.shown) if one.chosen is None else 1
    strength = dict.fromkeys(names, 1.0)
    for _ in range(1000):
        rest = dict.fromkeys(names, 0.0)
        for one in everything:
            total = sum(strength[name] for name in one.shown)
            for name in one.shown:
                rest[name] += 1 / total
        strength = {name: wins[name] / rest[name] for name in names}
    return strength


@pytest.mark.parametrize(("won", "lost", "tied"), [(7, 2, 0), (3, 3, 4), (0, 5, 1), (9, 0, 0)])
def test_two_are_as_worked_out_by_hand(won: int, lost: int, tied: int) -> None:
    """The odds are the wins' ratio, and their logarithm's variance 1 / (n p (1 - p))."""
    choices = [*votes("ab", "b", won), *votes("ab", "a", lost), *votes("ab", None, tied)]
    found = preferences(choices, "a")
    n, b = won + lost + tied + 1, won + (tied + 1) / 2
    p = b / n
    logit, error = math.log(p / (1 - p)), 1 / math.sqrt(n * p * (1 - p))
    ends = [1 / (1 + math.exp(-(logit + side * 1.959964 * error))) for side in (-1, 1)]
    assert found["b"].probability == pytest.approx(p, abs=1e-4)
    assert [found["b"].low, found["b"].high] == pytest.approx(ends, abs=1e-3)
    assert (found["b"].wins, found["b"].votes) == (won + tied / 2, n - 1)
    assert found["a"].probability == found["a"].low == found["a"].high == 0.5


def test_several_of_many_sizes_are_as_another_algorithm_has_them() -> None:
    rng = np.random.default_rng(0)
    strength = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 4.0}
    choices = []
    for _ in range(150):
        shown = tuple(rng.permutation(list(strength))[: rng.integers(2, 5)].tolist())
        weights = np.array([strength[name] for name in shown])
        chosen = None if rng.random() < 0.1 else str(rng.choice(shown, p=weights / weights.sum()))
        choices.append(Choice(shown, chosen))
    found = preferences(choices, "a")
    expected = by_minorisation(choices, list(found))
    for name, one in found.items():
        share = expected[name] / (expected[name] + expected["a"])
        assert one.probability == pytest.approx(share, abs=1e-4)
        assert one.low <= one.probability <= one.high
    turned = preferences(choices, "d")["a"]  # the same pair from the other side
    assert turned.probability == pytest.approx(1 - found["d"].probability, abs=1e-4)
    assert turned.low == pytest.approx(1 - found["d"].high, abs=1e-4)


def test_more_votes_narrow_the_interval_and_a_tie_moves_nobody() -> None:
    few, many = (preferences(votes("abc", "b", n) + votes("abc", "a", n), "a") for n in (3, 30))
    assert few["b"].high - few["b"].low > 2 * (many["b"].high - many["b"].low)
    assert many["b"].probability == pytest.approx(0.5, abs=1e-6)
    assert many["c"].high < 0.5
    tied = preferences(votes("abc", None, 4), "a")
    assert [one.probability for one in tied.values()] == pytest.approx([0.5] * 3)
    assert [one.wins for one in tied.values()] == pytest.approx([4 / 3] * 3)
    with pytest.raises(ValueError):
        preferences(votes("ab", "a", 1), "z")
