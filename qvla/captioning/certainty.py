"""How sure a model is of a caption, in a plain word; phrases said again and again; and the note on
photos that are unlike what the model knows.

The mean log-probability of a caption's tokens ranks captions of one model: the likelier ones are
more often right. What is likely to one model is not to another, so that each contender has its own
thresholds, set on photos that people have captioned (`qvla.evaluation.certainty`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

SURE, UNSURE, GUESSING = WORDS = ("sure", "unsure", "guessing")

UNFAMILIAR = (
    "This photo is unlike those that the model was trained on, so what is said of it may well be "
    "wrong."
)

TIMES = 3  # that a phrase is said before it is told of
LONGEST_PHRASE = 8  # words
FREE_PHRASE = 3  # words of a phrase that counts wherever it stands; shorter ones are grammar
SEPARATORS = frozenset(".,;:!?") | {"and"}


@dataclass(frozen=True)
class Thresholds:
    """Mean log-probabilities of a caption's tokens, as `Caption.log_probability` has them: sure
    from `sure` on, guessing below `guessing`.
    """

    sure: float
    guessing: float

    def word(self, log_probability: float) -> str:
        """One of WORDS."""
        if log_probability >= self.sure:
            return SURE
        return GUESSING if log_probability < self.guessing else UNSURE


class Answer(Protocol):
    """What tells whether its photo is unlike the training photos, None where that is not known."""

    @property
    def unfamiliar(self) -> bool | None: ...


def unfamiliar_notes(answers: Iterable[Answer]) -> list[str]:
    """A sentence when the photo that answers are about is unlike the training photos.

    The first that knows decides: what a base sees differs by little between precisions.
    """
    known = (one.unfamiliar for one in answers if one.unfamiliar is not None)
    return [UNFAMILIAR] if next(known, False) else []


def repeated(text: str) -> str:
    """The longest phrase that a text says three times, "" where there is none.

    A phrase of one or two words counts only right after itself (but for punctuation and "and"), a
    longer one anywhere.
    """
    words = re.findall(r"[\w'-]+|[^\w\s]", text.lower())
    said = [word for word in words if word not in SEPARATORS]
    for length in range(min(LONGEST_PHRASE, len(said) // TIMES), 0, -1):
        for start in range(len(said) - TIMES * length + 1):
            phrase = said[start : start + length]
            if _times(said[start:], phrase, anywhere=length >= FREE_PHRASE) >= TIMES:
                return " ".join(phrase)
    return ""


def _times(words: list[str], phrase: list[str], *, anywhere: bool) -> int:
    """How often a phrase stands in words that begin with it, without overlap."""
    count, place = 0, 0
    while place + len(phrase) <= len(words):
        if words[place : place + len(phrase)] == phrase:
            count += 1
            place += len(phrase)
        elif anywhere:
            place += 1
        else:
            break
    return count
