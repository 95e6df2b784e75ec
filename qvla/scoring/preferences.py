"""Which contender people prefer, from votes for the best of a few.

Luce's choice model (R. D. Luce, Individual Choice Behavior, 1959), which for two contenders is
that of R. A. Bradley and M. E. Terry (Biometrika 39, 1952): each has a strength, and is the best of
those shown with a probability in proportion to it. A tie is a vote that is shared evenly, between
two half a win each. Besides the votes, every two contenders count as having tied once, so that one
who was always preferred has a finite strength.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax

QUANTILE = 1.959963984540054  # of the normal distribution, for 95 %

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """A vote among those shown; `chosen` is None for a tie."""

    shown: tuple[str, ...]
    chosen: str | None


@dataclass(frozen=True)
class Preference:
    """One contender. `wins` counts a tie by its share of it, `votes` those that it was shown in.

    `probability` is that of being preferred to the contender that all are set against, with the
    ends of its 95 % interval, by the normal approximation to the logarithm of the odds; the
    contender itself has 0.5.
    """

    wins: float
    votes: int
    probability: float
    low: float
    high: float


def preferences(choices: Sequence[Choice], against: str) -> dict[str, Preference]:
    """By name, in the order in which they were shown first. Raises ValueError when `against` was
    never shown.
    """
    names = list(dict.fromkeys(name for one in choices for name in one.shown))
    place = names.index(against)
    shown = np.array([[name in one.shown for name in names] for one in choices])  # (V, K)
    shares = np.array([_shares(one, names) for one in choices])  # (V, K)
    logits, errors = _fit(*_with_a_tie_each(shown, shares), place)
    ends = expit(logits - QUANTILE * errors), expit(logits + QUANTILE * errors)
    return {
        name: Preference(
            float(shares[:, k].sum()),
            int(shown[:, k].sum()),
            float(expit(logits[k])),
            float(ends[0][k]),
            float(ends[1][k]),
        )
        for k, name in enumerate(names)
    }


def _shares(choice: Choice, names: Sequence[str]) -> list[float]:
    if choice.chosen is None:
        return [(name in choice.shown) / len(choice.shown) for name in names]
    return [float(name == choice.chosen) for name in names]


def _with_a_tie_each(shown: NDArray[np.bool_], shares: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """The votes, and for every two contenders one vote more, which is a tie. Both (V', K)."""
    count = shown.shape[1]
    pairs = list(itertools.combinations(range(count), 2))
    tied = np.zeros((len(pairs), count), dtype=bool)
    for row, pair in enumerate(pairs):
        tied[row, list(pair)] = True
    return np.vstack([shown, tied]), np.vstack([shares, tied / 2])


def _fit(shown: NDArray[np.bool_], shares: Floats, place: int) -> tuple[Floats, Floats]:
    """Logarithms of the strengths over that of `place`, and their standard errors, both (K,)."""
    free = np.arange(shown.shape[1]) != place

    def loss(values: Floats) -> tuple[float, Floats]:
        logits = np.zeros(len(free))
        logits[free] = values
        seen = np.where(shown, logits, -np.inf)
        value = logsumexp(seen, axis=1).sum() - (shares * logits).sum()
        return float(value), (softmax(seen, axis=1) - shares).sum(axis=0)[free]

    found = minimize(loss, np.zeros(int(free.sum())), jac=True, method="BFGS")
    logits, errors = np.zeros(len(free)), np.zeros(len(free))
    logits[free] = found.x
    chances = softmax(np.where(shown, logits, -np.inf), axis=1)  # (V', K)
    information = np.diag(chances.sum(axis=0)) - chances.T @ chances
    errors[free] = np.sqrt(np.diag(np.linalg.inv(information[np.ix_(free, free)])))
    return logits, errors
