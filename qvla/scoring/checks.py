"""What cannot be scored, refused in a sentence."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TypeVar

from qvla.errors import QvlaError
from qvla.words import counted

Id = TypeVar("Id", bound=Hashable)


class ScoringError(QvlaError):
    """The captions cannot be scored as given; the message says what to mend."""


def check_metrics(metrics: Collection[str], known: Sequence[str]) -> None:
    """Raises ScoringError when a metric is not among the known ones, or none is named."""
    unknown = [name for name in metrics if name not in known]
    if unknown:
        raise ScoringError(
            f"There is no metric {some(unknown)}; the metrics are {', '.join(known)}."
        )
    if not metrics:
        raise ScoringError(f"Name at least one metric of {', '.join(known)}.")


def check_pairs(
    references: Mapping[Id, Sequence[str]],
    candidates: Mapping[Id, str],
    item: str = "image",
    said: str = "caption",
) -> None:
    """Raises ScoringError unless both sides have the same images, with references and a caption.

    `item` and `said` are what the sentences call an image and a caption.
    """
    if not references and not candidates:
        raise ScoringError(f"There is nothing to score: no {said}s and no references were given.")
    unsaid = [key for key in references if key not in candidates]
    if unsaid:
        raise ScoringError(
            f"{len(unsaid)} of {len(references)} {item}s with references have no {said} to score: "
            f"{some(unsaid)}."
        )
    unknown = [key for key in candidates if key not in references]
    if unknown:
        raise ScoringError(
            f"{len(unknown)} of {len(candidates)} {said}s are of {item}s that have no references: "
            f"{some(unknown)}."
        )
    single = [key for key, texts in references.items() if isinstance(texts, str)]
    if single:
        raise ScoringError(f"References are lists of {said}s, not one text as for {some(single)}.")
    several = [key for key, caption in candidates.items() if not isinstance(caption, str)]
    if several:
        raise ScoringError(f"Each {item} has one {said} to score, a text; see {some(several)}.")
    bare = [key for key, texts in references.items() if not len(texts)]
    if bare:
        have = "has" if len(bare) == 1 else "have"
        raise ScoringError(f"{counted(len(bare), item)} {have} no reference at all: {some(bare)}.")


def check_words(references: Sequence[Sequence[str]]) -> None:
    """Raises ScoringError when no reference holds a word."""
    if not any(text.strip() for texts in references for text in texts):
        raise ScoringError("The references hold no word; give captions to score against.")


def some(keys: Sequence[Hashable], shown: int = 3) -> str:
    """The first few of many names, and how many more there are."""
    names = ", ".join(str(key) for key in keys[:shown])
    return f"{names} and {len(keys) - shown} more" if len(keys) > shown else names
