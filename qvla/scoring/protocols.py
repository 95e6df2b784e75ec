"""Scores under one of two named protocols, with intervals, and differences between two systems.

`standard` compares with all references of a photo, as PTB tokens: the way captions are scored in
the literature. `reported` compares with one reference drawn at random, on the raw strings: the way
the QVLA report did it. Scores of one are never to be set against scores of the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from qvla.scoring import bootstrap
from qvla.scoring.checks import ScoringError, check_metrics, check_pairs, check_words, some
from qvla.scoring.corpus import by_metric, tokens_of
from qvla.scoring.java import JavaError
from qvla.scoring.meteor import METEOR, measure_meteor
from qvla.scoring.parts import METRICS, Parts, measure
from qvla.scoring.tokens import AUTO

STANDARD, REPORTED = PROTOCOLS = ("standard", "reported")
ALL_METRICS = (*METRICS, METEOR)
NO_TOKENIZER = "none"
RESAMPLES = 1000
STEPS = 4  # of scoring: tokens, the metrics of pycocoevalcap, METEOR, intervals


@dataclass(frozen=True)
class Interval:
    """A score of all photos and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """By how much one system scores higher, its 95 % interval, and how likely by chance."""

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Scored:
    """One system's captions, scored.

    tokenizer: "java" or "python", whose PTB tokens these are, or "none". seed: of the drawn
    references, None where all were used. per_image: by metric, then by image. notes: sentences on
    what is absent and why.
    """

    protocol: str
    images: int
    tokenizer: str
    seed: int | None
    metrics: dict[str, Interval]
    per_image: dict[str, dict[str, float]] = field(repr=False)
    notes: tuple[str, ...] = ()
    _parts: tuple[Parts, ...] = field(default=(), repr=False, compare=False)
    _truth: str = field(default="", repr=False, compare=False)


def score(
    references: Mapping[str, Sequence[str]],
    candidates: Mapping[str, str],
    protocol: str = STANDARD,
    *,
    seed: int = 0,
    metrics: Collection[str] | None = None,
    resamples: int = RESAMPLES,
    tokenizer: str = AUTO,
    step: Callable[[], None] = lambda: None,
) -> Scored:
    """Scores raw captions against raw references, matched by image name.

    `seed` draws the reference of the reported protocol, by image name alone, and the resamples.
    Left out, `metrics` are all that can be had here; METEOR needs Java and takes about 5 s and 3 ms
    a photo. `tokenizer` is "auto", "java" or "python"; the reported protocol has none. `step` is
    called after each of the STEPS that there are, for a progress bar.

    Raises ScoringError when an option is unknown, an image is on one side only, a photo has no
    reference, or METEOR is asked for by name and cannot be had.
    """
    if protocol not in PROTOCOLS:
        raise ScoringError(f"There is no protocol {protocol}; it is {' or '.join(PROTOCOLS)}.")
    if resamples < 1:
        raise ScoringError(f"The number of resamples must be at least 1, not {resamples}.")
    wanted = tuple(dict.fromkeys(ALL_METRICS if metrics is None else metrics))
    check_metrics(wanted, ALL_METRICS)
    check_pairs(references, candidates)

    images = sorted(references)
    if protocol == STANDARD:
        truth, said, used = tokens_of(references, candidates, images, tokenizer)
    else:
        truth = [[drawn_reference(image, references[image], seed)] for image in images]
        said, used = [candidates[image] for image in images], NO_TOKENIZER
        check_words(truth)
    step()

    parts = measure(truth, said, wanted)
    step()
    notes: tuple[str, ...] = ()
    if METEOR in wanted:
        try:
            parts.append(measure_meteor(truth, said))
        except JavaError as error:
            if metrics is not None:
                raise ScoringError(
                    f"METEOR cannot be computed ({error}); leave it out or install Java."
                ) from error
            wanted = METRICS
            notes = (f"METEOR is absent: {error}.",)
    step()
    scores = by_metric(parts, images, wanted)
    spread = bootstrap.resampled(parts, resamples, seed)
    step()
    return Scored(
        protocol=protocol,
        images=len(images),
        tokenizer=used,
        seed=seed if protocol == REPORTED else None,
        metrics={
            name: Interval(value, *bootstrap.interval(spread[name], value))
            for name, value in scores.values.items()
        },
        per_image=scores.per_image,
        notes=notes,
        _parts=tuple(parts),
        _truth=hashlib.sha256(json.dumps([images, truth]).encode()).hexdigest(),
    )


def compare(
    first: Scored, second: Scored, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """By metric, how much higher the second system scores, on the same resampled photos.

    Only metrics that both have. Raises ScoringError when the two were not scored by the same
    protocol, on the same photos and against the same references.
    """
    if first.protocol != second.protocol:
        raise ScoringError(
            f"Scores of the {first.protocol} and the {second.protocol} protocol cannot be "
            "compared; score both by one."
        )
    if first.seed != second.seed:
        raise ScoringError(
            f"References drawn with seeds {first.seed} and {second.seed} cannot be compared; score "
            "both with one seed."
        )
    metrics = [name for name in first.metrics if name in second.metrics]
    if not metrics:
        raise ScoringError("The two have no metric in common; score both by the same metrics.")
    theirs, ours = (set(scored.per_image[metrics[0]]) for scored in (first, second))
    if theirs != ours:
        alone = sorted(theirs ^ ours)
        raise ScoringError(
            f"{len(alone)} images were scored on one side only: {some(alone)}; score both on the "
            "same images."
        )
    if first._truth != second._truth:
        raise ScoringError("The two were scored against different references; score them again.")
    if resamples < 1:
        raise ScoringError(f"The number of resamples must be at least 1, not {resamples}.")
    before, after = (
        bootstrap.resampled(scored._parts, resamples, seed) for scored in (first, second)
    )
    result = {}
    for name in metrics:
        differences = after[name] - before[name]
        value = second.metrics[name].value - first.metrics[name].value
        low, high = bootstrap.interval(differences, value)
        result[name] = Difference(value, low, high, bootstrap.p_value(differences))
    return result


def drawn_reference(image: str, references: Sequence[str], seed: int) -> str:
    """The reference that the seed draws for this image, whatever other images there are."""
    digest = hashlib.blake2b(json.dumps([seed, image]).encode(), digest_size=8).digest()
    return references[int.from_bytes(digest, "little") % len(references)]
