"""Words of a question that a model has no token for, as a small vocabulary of whole words lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qvla.captioning.prompts import unknown_words

if TYPE_CHECKING:
    from qvla.captioning.lineup import Lineup


def vocabulary_notes(lineup: Lineup, names: Sequence[str], question: str) -> list[str]:
    """A sentence for each of the contenders' vocabularies that lacks words of the question.

    Those of models not loaded yet are passed over.
    """
    lacking: dict[tuple[str, ...], list[str]] = {}
    for name in names if question else ():
        backbone = lineup.shared(name).backbone
        if backbone is not None:
            words = unknown_words(backbone.processor, question)
            lacking.setdefault(tuple(words), []).append(lineup.title(name))
    return [
        f"The vocabulary of {_listed(titles)} lacks {_listed([repr(word) for word in words])}: "
        "ask in other words."
        for words, titles in lacking.items()
        if words
    ]


def _listed(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
