"""Scores of a set of captions by the standard protocol: all references, PTB tokens.

The scoring is pycocoevalcap's: CIDEr (Vedantam et al. 2015; its code is the CIDEr-D of that paper),
BLEU (Papineni et al. 2002) with the closest reference length, and ROUGE-L (Lin 2004).

CIDEr weighs words by how few of the scored photos' references use them, so its value belongs to
the set that was scored: scores of different subsets are not comparable, and one photo alone gets 0.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from qvla.errors import QvlaError
from qvla.scoring.ptb import tokenize

Id = TypeVar("Id", bound=Hashable)

BLEU_ORDERS = {f"BLEU-{order}": order for order in range(1, 5)}
METRICS = ("CIDEr", *BLEU_ORDERS, "ROUGE-L")


class ScoringError(QvlaError):
    """The captions cannot be scored as given; the message says what to mend."""


@dataclass(frozen=True)
class CorpusScores:
    """Scores of a set of captions and of each photo in it.

    BLEU of the set is not the mean of the photos' BLEU: it pools the counts of all sentences.
    """

    values: dict[str, float]  # by metric; CIDEr on its usual scale, where 1.0 is good, the rest 0-1
    per_image: dict[str, dict[Hashable, float]]  # by metric, then by image id


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
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ScoringError(
            f"There is no metric {_some(unknown)}; the metrics are {', '.join(METRICS)}."
        )
    _check_ids(references, candidates)

    ids = list(references)
    counts = [len(references[key]) for key in ids]
    reference_tokens = iter(tokenize(list(chain.from_iterable(references[key] for key in ids))))
    truth = {
        key: [next(reference_tokens) for _ in range(count)]
        for key, count in zip(ids, counts, strict=True)
    }
    if not any(chain.from_iterable(truth.values())):
        raise ScoringError("The references hold no word; give captions to score against.")
    said = {
        key: [caption]
        for key, caption in zip(ids, tokenize([candidates[key] for key in ids]), strict=True)
    }

    values: dict[str, float] = {}
    per_image: dict[str, dict[Hashable, float]] = {}

    def keep(name: str, value: float, parts: Sequence[float]) -> None:
        if name in metrics:
            values[name] = float(value)
            per_image[name] = dict(zip(ids, map(float, parts), strict=True))

    if "CIDEr" in metrics:
        keep("CIDEr", *Cider().compute_score(truth, said))
    highest = max((BLEU_ORDERS.get(name, 0) for name in metrics), default=0)
    if highest:
        totals, sentences = Bleu(highest).compute_score(truth, said, verbose=0)
        for order in range(1, highest + 1):
            keep(f"BLEU-{order}", totals[order - 1], sentences[order - 1])
    if "ROUGE-L" in metrics:
        keep("ROUGE-L", *Rouge().compute_score(truth, said))
    return CorpusScores({name: values[name] for name in metrics}, per_image)


def _check_ids(
    references: Mapping[Id, Sequence[str]],
    candidates: Mapping[Id, str],
) -> None:
    if not references and not candidates:
        raise ScoringError("There is nothing to score: no captions and no references were given.")
    unsaid = [key for key in references if key not in candidates]
    if unsaid:
        raise ScoringError(
            f"{len(unsaid)} of {len(references)} images with references have no caption to score: "
            f"{_some(unsaid)}."
        )
    unknown = [key for key in candidates if key not in references]
    if unknown:
        raise ScoringError(
            f"{len(unknown)} of {len(candidates)} captions are of images that have no references: "
            f"{_some(unknown)}."
        )
    single = [key for key, texts in references.items() if isinstance(texts, str)]
    if single:
        raise ScoringError(
            f"References are lists of captions, not one text as for {_some(single)}."
        )
    several = [key for key, caption in candidates.items() if not isinstance(caption, str)]
    if several:
        raise ScoringError(f"Each image has one caption to score, a text; see {_some(several)}.")
    bare = [key for key, texts in references.items() if not len(texts)]
    if bare:
        raise ScoringError(f"{len(bare)} images have no reference at all: {_some(bare)}.")


def _some(keys: Sequence[Hashable], shown: int = 3) -> str:
    names = ", ".join(str(key) for key in keys[:shown])
    return f"{names} and {len(keys) - shown} more" if len(keys) > shown else names
