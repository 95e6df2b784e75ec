"""Scores answers in one file against the right ones in another, as far as both go."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from qvla.data.questions import read_questions
from qvla.data.splits import split_name
from qvla.data.tables import json_document
from qvla.progress import progress
from qvla.scoring.answers.bert import Bert
from qvla.scoring.answers.rows import Row, read_rows
from qvla.scoring.answers.score import ANSWER_METRICS, VTGS, score_answers
from qvla.scoring.answers.semantic import overlap
from qvla.scoring.checks import ScoringError, some
from qvla.scoring.files import FileScores
from qvla.scoring.protocols import RESAMPLES

log = logging.getLogger(__name__)

Keys = tuple[str, str]  # image or ID, and the question


def score_answer_files(
    predictions: str | Path,
    references: str | Path,
    *,
    splits: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    metrics: Collection[str] | None = None,
    bert: Bert | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> FileScores:
    """Scores the questions that have an answer and right ones; see `score_answers` for the options.

    A question is found by its words with the ID, the image, or the image without folders; by ID or
    image alone where one side does not say the question. The regions of VTGS are an answer's
    `regions` and the question's, from the file of right answers or else of predictions.

    Raises ScoringError when there is no such question or a file is not as it should be, and
    DatasetError when a data set of questions cannot be read.
    """
    truth = _merged(_right(Path(references).expanduser()))
    truth = [
        row
        for row in truth
        if (splits is None or split_name(row.split) in map(split_name, splits))
        and (sources is None or row.source in sources)
        and any(map(str.strip, row.answers))
    ]
    if not truth:
        raise ScoringError(
            f"{Path(references).name} has no right answers of that split and those sources."
        )
    said = read_rows(Path(predictions))
    found, unknown = _matched(said, truth, Path(predictions).name)
    if not found:
        raise ScoringError(
            f"None of the {len(said)} answered questions ({some([row.title for row in said])}) is "
            f"among the {len(truth)} with right answers ({some([row.title for row in truth])}); "
            "name images or IDs and questions alike."
        )
    names = _names(truth)
    overlaps = {}
    for place, row in found.items():
        due = truth[place].regions
        due = row.question_regions if due is None else due
        common = None if row.regions is None or due is None else overlap(row.regions, due)
        if common is not None:
            overlaps[names[place]] = common
    with progress(len(metrics or ANSWER_METRICS), "Scoring answers") as bar:
        scored = score_answers(
            {names[place]: [text for text in truth[place].answers if text] for place in found},
            {names[place]: row.answers[0] for place, row in found.items()},
            overlaps={VTGS: overlaps},
            metrics=metrics,
            bert=bert,
            resamples=resamples,
            seed=seed,
            step=bar.step,
        )
    return FileScores(
        scored,
        missing_predictions=tuple(name for place, name in enumerate(names) if place not in found),
        missing_references=tuple(row.title for row in unknown),
    )


def _right(source: Path) -> list[Row]:
    """Right answers: rows of a file of any system, or questions as `qvla.data.questions` has them
    in a folder, or in VQAv2's and RSVQA's own files.
    """
    if not source.is_dir() and not _is_object(source):
        return read_rows(source)
    return [
        Row(
            where=example.name,
            image=example.image.name,
            key=example.key,
            question=example.question,
            answers=example.references or ("",),
            source=example.source,
            split=example.split,
        )
        for example in read_questions(source)
    ]


def _is_object(path: Path) -> bool:
    """Whether a file is one JSON object with a list of questions."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    document = json_document(path)
    return isinstance(document, dict) and isinstance(document.get("questions"), list)


def _merged(rows: Sequence[Row]) -> list[Row]:
    """Rows of one answer each to the same question as one."""
    merged: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        before = merged.setdefault((row.key, row.image, row.question), row)
        if before is not row:
            merged[row.key, row.image, row.question] = replace(
                before,
                answers=before.answers + row.answers,
                regions=row.regions if before.regions is None else before.regions,
            )
    return list(merged.values())


def _matched(
    said: Sequence[Row], truth: Sequence[Row], file: str
) -> tuple[dict[int, Row], list[Row]]:
    """The predictions by the place of their question in `truth`, and those of no question there."""
    asked: dict[Keys, list[int]] = {}
    plain: dict[str, list[int]] = {}
    for place, row in enumerate(truth):
        for name in _known_as(row):
            asked.setdefault((name, _plain(row.question)), []).append(place)
            plain.setdefault(name, []).append(place)
    found: dict[int, Row] = {}
    unknown: list[Row] = []
    for row in said:
        if len(row.answers) != 1:
            raise ScoringError(f"{file}, {row.where}, has {len(row.answers)} answers: give one.")
        at = _place(row, truth, asked, plain)
        if at is None:
            unknown.append(row)
            continue
        if at in found:
            raise ScoringError(
                f"{file}, {row.where}, answers {row.title} again, after {found[at].where}; give "
                "one answer a question."
            )
        found[at] = row
    return found, unknown


def _place(
    row: Row, truth: Sequence[Row], asked: dict[Keys, list[int]], plain: dict[str, list[int]]
) -> int | None:
    for name in _known_as(row):
        places = asked.get((name, _plain(row.question)), [])
        if len(places) == 1:
            return places[0]
    for name in _known_as(row):
        places = plain.get(name, [])
        if len(places) == 1 and not (row.question and truth[places[0]].question):
            return places[0]
    return None


def _known_as(row: Row) -> Iterator[str]:
    """What a row's photo or question may be called on the other side, the surest first."""
    image = row.image.replace("\\", "/")
    yield from dict.fromkeys(filter(None, (row.key, image, image.rpartition("/")[2])))


def _plain(question: str) -> str:
    return " ".join(question.lower().split())


def _names(rows: Sequence[Row]) -> list[str]:
    """A name for each row, no two alike."""
    times: dict[str, int] = {}
    names = []
    for row in rows:
        times[row.title] = times.get(row.title, 0) + 1
        names.append(row.title if times[row.title] == 1 else f"{row.title} #{times[row.title]}")
    return names
