"""Scores captions in one file against the references in another, as far as both go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvla.data.examples import read_examples
from qvla.data.risc import TABLE
from qvla.scoring.checks import ScoringError, some
from qvla.scoring.predictions import read_predictions
from qvla.scoring.protocols import RESAMPLES, STANDARD, Scored, score
from qvla.scoring.tokens import AUTO


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
) -> dict[str, tuple[str, ...]]:
    """Captions of each image of a `captions.csv`, whose images need not be there, or a data set.

    Images without a caption are left out. Raises ScoringError when nothing is left or an image is
    listed twice, and DatasetError when the data cannot be read.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() == ".csv" and path.name != TABLE:
        raise ScoringError(f"The table of references must be named {TABLE}, not {path.name}.")
    examples = read_examples(
        path.parent if path.name == TABLE else source, splits=splits, sources=sources
    )
    references: dict[str, tuple[str, ...]] = {}
    for example in examples:
        if example.name in references:
            raise ScoringError(
                f"{example.name} is listed twice in {source}; see `qvla data check` for all such "
                "rows."
            )
        references[example.name] = example.references
    references = {image: texts for image, texts in references.items() if texts}
    if not references:
        raise ScoringError(
            f"{source} has no references of that split and those sources; see `qvla data stats`."
        )
    return references


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
    captions = read_predictions(predictions)
    truth = read_references(references, splits=splits, sources=sources)
    both = [image for image in truth if image in captions]
    if not both:
        raise ScoringError(
            f"None of the {len(captions)} captioned images ({some(list(captions))}) is among the "
            f"{len(truth)} with references ({some(list(truth))}); name them alike."
        )
    return FileScores(
        score(
            {image: truth[image] for image in both},
            {image: captions[image] for image in both},
            protocol,
            seed=seed,
            metrics=metrics,
            resamples=resamples,
            tokenizer=tokenizer,
        ),
        missing_predictions=tuple(image for image in truth if image not in captions),
        missing_references=tuple(image for image in captions if image not in truth),
    )
