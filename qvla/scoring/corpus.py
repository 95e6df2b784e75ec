"""Scores of a set of captions by the standard protocol: all references, PTB tokens.

CIDEr weighs words by how few of the scored photos' references use them, so its value belongs to
the set that was scored: scores of different subsets are not comparable, and one photo alone gets 0.

The tokens are the Python tokeniser's, and there are no intervals; `qvla.scoring.protocols` has both
protocols, either tokeniser and intervals.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from qvla.scoring.checks import ScoringError, check_metrics, check_pairs, check_words
from qvla.scoring.parts import METRICS, Parts, measure
from qvla.scoring.tokens import PYTHON, tokenize

__all__ = ["METRICS", "CorpusScores", "ScoringError", "corpus_scores", "score_corpus"]

Id = TypeVar("Id", bound=Hashable)


@dataclass(frozen=True)
class CorpusScores:
    """Scores of a set of captions and of each photo in it.

    BLEU of the set is not the mean of the photos' BLEU: it pools the counts of all sentences.
    """

    values: dict[str, float]  # by metric; CIDEr on its usual scale, where 1.0 is good, the rest 0-1
    per_image: dict[str, dict[Any, float]]  # by metric, then by image id


def corpus_scores(
    references: Mapping[Id, Sequence[str]],
    candidates: Mapping[Id, str],
    metrics: Collection[str] = METRICS,
) -> dict[str, float]:
    """The value of each metric over all photos. See score_corpus."""
    return score_corpus(references, candidates, metrics).values


def score_corpus(
    references: Mapping[Id, Sequence[str]],
    candidates: Mapping[Id, str],
    metrics: Collection[str] = METRICS,
) -> CorpusScores:
    """Scores raw captions against all references of their photos, matched by image id.

    Raises ScoringError when a metric is unknown, nothing is given, an id is on one side only, or a
    photo has no reference. A candidate may be empty: it scores 0.
    """
    check_metrics(metrics, METRICS)
    check_pairs(references, candidates)
    ids = list(references)
    truth, said, _ = tokens_of(references, candidates, ids, PYTHON)
    return by_metric(measure(truth, said, metrics), ids, metrics)


def tokens_of(
    references: Mapping[Id, Sequence[str]],
    candidates: Mapping[Id, str],
    ids: Sequence[Id],
    tokenizer: str,
) -> tuple[list[list[str]], list[str], str]:
    """Each photo's references and caption as lines of PTB tokens, and whose tokens they are."""
    captions = [text for key in ids for text in (*references[key], candidates[key])]
    lines, used = tokenize(captions, tokenizer)
    rest = iter(lines)
    truth, said = [], []
    for key in ids:
        truth.append([next(rest) for _ in references[key]])
        said.append(next(rest))
    check_words(truth)
    return truth, said, used


def by_metric(
    parts: Sequence[Parts], ids: Sequence[Hashable], metrics: Collection[str]
) -> CorpusScores:
    """The scores that were asked for, in that order, by name."""
    values: dict[str, float] = {}
    photos: dict[str, np.ndarray] = {}
    for part in parts:
        values.update(zip(part.metrics, part.values, strict=True))
        photos.update(zip(part.metrics, part.photos.T, strict=True))
    return CorpusScores(
        {name: values[name] for name in metrics},
        {name: dict(zip(ids, photos[name].tolist(), strict=True)) for name in metrics},
    )
