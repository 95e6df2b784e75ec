"""Scores captions in one file against the references in another, as far as both go."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvla.data.examples import read_examples
from qvla.data.risc import Example
from qvla.progress import progress
from qvla.scoring.checks import ScoringError, some
from qvla.scoring.predictions import read_predictions
from qvla.scoring.protocols import RESAMPLES, STANDARD, STEPS, Scored, score
from qvla.scoring.tokens import AUTO

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileScores:
    """Scores of the images on both sides, and the names of those on one side only."""

    scored: Scored
    missing_predictions: tuple[str, ...]  # have references, but no caption
    missing_references: tuple[str, ...]  # have a caption, but no references


def read_references(
    source: str | Path,
    *,
    splits: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> dict[str, Example]:
    """Photos with captions by people, by image name: a file of captions, or a data set.

    The photos themselves need not be there; those without a caption are left out. Raises
    ScoringError when nothing is left or an image is listed twice, and DatasetError when the data
    cannot be read.
    """
    references: dict[str, Example] = {}
    for example in read_examples(source, splits=splits, sources=sources):
        if example.name in references:
            raise ScoringError(
                f"{example.name} is listed twice in {source}; see `qvla data check` for all such "
                "rows."
            )
        references[example.name] = example
    references = {image: example for image, example in references.items() if example.references}
    if not references:
        raise ScoringError(
            f"{source} has no references of that split and those sources; see `qvla data stats`."
        )
    return references


def matched(
    captions: Mapping[str, str], references: Mapping[str, Example]
) -> tuple[dict[str, str], str | None]:
    """The captions by the references' names, and a sentence when they were found by other means.

    What is no name there is looked up as the number by which COCO or Karpathy's file knows a photo,
    then by the name without folders, where that is the name of one photo on either side. What is
    not found keeps its name. Raises ScoringError when two captions turn out to be of one image.
    """
    keys = {example.key: name for name, example in references.items() if example.key}
    here, there = _by_last_part(references), _by_last_part(captions)
    found: dict[str, str] = {}
    by_key = by_part = 0
    for said, caption in captions.items():
        last = _last_part(said)
        name = said
        if said not in references:
            if said in keys:
                name, by_key = keys[said], by_key + 1
            elif len(here.get(last, ())) == len(there[last]) == 1:
                name, by_part = here[last][0], by_part + 1
        if name in found:
            raise ScoringError(f"{name} is captioned twice, once as {said}; give one caption.")
        found[name] = caption
    ways = [(by_key, "the references' image ids"), (by_part, "their names without folders")]
    how = " and ".join(f"{count:,} by {way}" for count, way in ways if count)
    return found, f"Captions were matched {how}." if how else None


def _by_last_part(names: Iterable[str]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(_last_part(name), []).append(name)
    return parts


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def score_files(
    predictions: str | Path,
    references: str | Path,
    protocol: str = STANDARD,
    *,
    splits: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    seed: int = 0,
    metrics: Collection[str] | None = None,
    resamples: int = RESAMPLES,
    tokenizer: str = AUTO,
) -> FileScores:
    """Scores the images that have a caption and references; see `score` for the other options.

    Raises ScoringError when there is no such image or a file is not as it should be, and
    DatasetError when the references cannot be read.
    """
    truth = read_references(references, splits=splits, sources=sources)
    captions, how = matched(read_predictions(predictions), truth)
    if how is not None:
        log.info("%s", how)
    both = [image for image in truth if image in captions]
    if not both:
        raise ScoringError(
            f"None of the {len(captions)} captioned images ({some(list(captions))}) is among the "
            f"{len(truth)} with references ({some(list(truth))}); name them alike."
        )
    with progress(STEPS, "Scoring captions") as bar:
        scored = score(
            {image: truth[image].references for image in both},
            {image: captions[image] for image in both},
            protocol,
            seed=seed,
            metrics=metrics,
            resamples=resamples,
            tokenizer=tokenizer,
            step=bar.step,
        )
    return FileScores(
        scored,
        missing_predictions=tuple(image for image in truth if image not in captions),
        missing_references=tuple(image for image in captions if image not in truth),
    )
