"""Captions scored in groups, under the protocols, by the keys of an evaluation's record."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from qvla.data.risc import Example
from qvla.evaluation import certainty
from qvla.progress import progress
from qvla.scoring import PROTOCOLS, Scored, compare, score
from qvla.scoring.answers import Bert, Clip, Spread
from qvla.scoring.protocols import STANDARD

if TYPE_CHECKING:  # which imports PyTorch; the page reads records by the names below
    from qvla.evaluation.predictions import Predictions

log = logging.getLogger(__name__)

ALL = "all"  # the group of all sources together


@dataclass(frozen=True)
class Scoring:
    """How captions and answers are scored: under which protocols, by what, with how many bootstrap
    samples.

    `seed` draws the one reference of the reported protocol, and the bootstrap samples. `metrics` of
    None are all that can be had here. Answers have a protocol of their own, and `bert`
    is theirs, and so is `clip`, without which there is no VTGS by CLIP.
    """

    protocols: tuple[str, ...] = PROTOCOLS
    metrics: tuple[str, ...] | None = None
    resamples: int = 1000
    seed: int = 0
    bert: Bert = field(default_factory=Bert)
    clip: Clip | None = None


def by_source(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """All examples, then those of each source."""
    groups = {ALL: list(examples)}  # first, for what was tokenised and aligned for it is remembered
    for example in examples:
        groups.setdefault(example.source, []).append(example)
    return groups


def caption_scores(
    examples: Sequence[Example], predictions: Predictions, scoring: Scoring
) -> tuple[dict[str, float], str]:
    """Scores, paired differences and certainty by the record's keys, and whose PTB tokens were
    used.
    """
    captions = predictions.captions
    numbers: dict[str, float] = {}
    tokenizers: dict[str, str] = {}
    notes: dict[str, None] = {}
    groups = by_source(examples)
    steps = len(scoring.protocols) * len(groups) * len(captions)
    with progress(steps, "Scoring captions") as bar:
        for protocol in scoring.protocols:
            for group, own in groups.items():
                references = {example.name: example.references for example in own}
                scored: dict[str, Scored] = {}
                for variant, said in captions.items():
                    scored[variant] = score(
                        references,
                        {name: said[name] for name in references},
                        protocol,
                        seed=scoring.seed,
                        metrics=scoring.metrics,
                        resamples=scoring.resamples,
                    )
                    tokenizers[protocol] = scored[variant].tokenizer
                    notes |= dict.fromkeys(scored[variant].notes)
                    bar.step()
                numbers[f"{protocol}/{group}/images"] = len(own)
                numbers |= values_of(protocol, group, scored)
                numbers |= differences_of(protocol, group, scored, scoring)
                if (protocol, group) == (STANDARD, ALL):
                    for variant, own_scores in scored.items():
                        by_photo = own_scores.per_image.get(certainty.METRIC, {})
                        likely = predictions.log_probabilities[variant]
                        numbers |= certainty.certainty(variant, likely, by_photo)
    for note in notes:
        log.info("%s", note)
    return numbers, next(
        iter(tokenizers.values())
    )  # standard comes before reported, which has none


def values_of(protocol: str, group: str, scored: Mapping[str, Scored]) -> dict[str, float]:
    """Scores by the record's keys."""
    numbers = {}
    for variant, own in scored.items():
        for metric, interval in own.metrics.items():
            key = f"{protocol}/{variant}/{group}/{metric}"
            numbers[key] = interval.value
            numbers[f"{key}/low"], numbers[f"{key}/high"] = interval.low, interval.high
            if isinstance(interval, Spread):
                numbers[f"{key}/std"] = interval.std
    return numbers


def differences_of(
    protocol: str, group: str, scored: Mapping[str, Scored], scoring: Scoring
) -> dict[str, float]:
    """What the later of two variants scores more, of every pair, by the record's keys."""
    numbers = {}
    for first, second in combinations(scored, 2):
        differences = compare(
            scored[first], scored[second], resamples=scoring.resamples, seed=scoring.seed
        )
        for metric, difference in differences.items():
            key = f"{protocol}/{second}-minus-{first}/{group}/{metric}"
            numbers[key] = difference.value
            numbers[f"{key}/low"], numbers[f"{key}/high"] = difference.low, difference.high
            numbers[f"{key}/p_value"] = difference.p_value
    return numbers
