"""Answers as plain words: whether they are the same, and how many words they share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

# A point or a minus of a number is no punctuation: 1.5 is not 15, nor is -2 the same as 2.
PUNCTUATION = re.compile(r"(?<!\d)\.|\.(?!\d)|-(?!\d)|(?<=\w)-|[^\w\s.-]|_")


def normalised(answer: str) -> str:
    """An answer in lower case, stripped and without punctuation, words one space apart."""
    return " ".join(PUNCTUATION.sub("", answer.lower()).split())


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """1 where the normalised answer is one of the right ones, else 0."""
    return float(normalised(answer) in {normalised(truth) for truth in truths})


def token_f1(answer: str, truths: Sequence[str]) -> float:
    """F1 of the words shared with a right answer, each counted as often as both have it; the best
    of several right answers counts (Rajpurkar et al. 2016, section 6.1, which drops articles too).
    """
    return max(_f1(answer, truth) for truth in truths)


def best_of(
    score: Callable[[Sequence[str], Sequence[str]], np.ndarray],
    answers: Sequence[str],
    truths: Sequence[Sequence[str]],
) -> np.ndarray:
    """Each answer's highest score against one of its right answers, (N,), all scored in one call.

    `score` takes answers and one right one each, of equal length, to their scores.
    """
    distinct = [list(dict.fromkeys(texts)) for texts in truths]
    said = [answer for answer, texts in zip(answers, distinct, strict=True) for _ in texts]
    scores = score(said, [text for texts in distinct for text in texts])
    starts = np.cumsum([0, *map(len, distinct)])[:-1]
    return np.maximum.reduceat(scores, starts)


def _f1(answer: str, truth: str) -> float:
    said, due = normalised(answer).split(), normalised(truth).split()
    if not said or not due:
        return float(said == due)
    shared = sum((Counter(said) & Counter(due)).values())
    return 2 * shared / (len(said) + len(due))
