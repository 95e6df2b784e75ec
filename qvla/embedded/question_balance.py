"""Leaves out questions until no answer is right more often than another would be."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """A question about a photo, by its number. Answers are balanced among those of one `about`."""

    photo: int
    kind: str
    about: Hashable
    question: str
    answer: str


def balanced(made: list[Asked], most: int, share: float, rng: random.Random) -> list[Asked]:
    """At most so many of them, with no answer above half of what is asked about one thing, nor
    above its share of all.
    """
    groups: dict[Hashable, list[Asked]] = defaultdict(list)
    for asked in made:
        groups[asked.about].append(asked)
    kept = [asked for group in groups.values() for asked in _capped(group, 0.5, rng)]
    if len(kept) > most:
        part = most / len(kept)
        kept = [
            asked
            for group in groups.values()
            for asked in _capped(_part(_capped(group, 0.5, rng), part, rng), 0.5, rng)
        ]
    return _capped(kept, share, rng)


def _part(rows: list[Asked], part: float, rng: random.Random) -> list[Asked]:
    return rng.sample(rows, round(part * len(rows)))


def _capped(rows: list[Asked], share: float, rng: random.Random) -> list[Asked]:
    """The rows without as many of the most frequent answers as it takes."""
    counts = Counter(asked.answer for asked in rows)
    while counts:
        answer, times = max(counts.items(), key=lambda item: (item[1], item[0]))
        most = int(share / (1 - share) * (counts.total() - times))
        if times <= most:
            break
        counts[answer] = most
        if not most:
            return []
    order = rng.sample(range(len(rows)), len(rows))
    kept = []
    for index in order:
        if counts[rows[index].answer] > 0:
            counts[rows[index].answer] -= 1
            kept.append(rows[index])
    return kept
