"""Questions about photos with people's answers, in the forms people have, as examples.

A CSV of `ID, Question, Answer, Filename`, JSON Lines and JSON lists of objects with keys of such
names in any case, and VQAv2's and RSVQA's own files (`questions_json`). What a question may be is
decided here too, for whoever asks one.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qvla.data import questions_json
from qvla.data.columns import one_line
from qvla.data.layouts import CSV, IMAGE_NAMES, TABLES, TRIED, first_of, photo_folders
from qvla.data.questions_json import ANSWERS, ID, QUESTION, TYPE
from qvla.data.risc import Example, located, name_fault, plain_name
from qvla.data.special_tokens import special_tokens
from qvla.data.splits import DEFAULT, split_in, split_name
from qvla.data.tables import (
    DatasetError,
    Record,
    csv_records,
    json_document,
    json_lines,
    json_records,
)
from qvla.errors import QvlaError
from qvla.words import counted

LONGEST_QUESTION = 200  # characters; VQAv2's and RSVQA's longest are shorter
ID_NAMES = (ID, "question_id", "qid")
ANSWER_NAMES = (ANSWERS, "answer")
TYPE_NAMES = (TYPE, "question_type", "kind", "answer_type")
TOLD_FAULTS = 3

log = logging.getLogger(__name__)


def clean_question(text: str) -> str:
    """A question as it is asked: on one line. Raises QvlaError when it cannot be asked."""
    question = _one_line(text)
    if fault := _fault(question):
        raise QvlaError(f"The question cannot be asked: {fault}.")
    return question


def read_questions(source: str | Path, photos: str | Path | None = None) -> list[Example]:
    """The questions of a file, or of all files of questions in a folder, in file order.

    An example's `name` is the question's ID, or its photo's name without one; of several with one
    name the later ones get a number (`a.jpg#2`). Rows of one answer each to the same question
    become one. There need be no answers. Whether each photo is there is not checked here.

    Args:
        source: the file or folder.
        photos: the folder of the photos, or above theirs; looked for beside the questions without.

    Raises DatasetError when there are no questions, or rows are unusable, naming their lines.
    """
    path = Path(source).expanduser()
    folder = None if photos is None else Path(photos).expanduser()
    if folder is not None and not folder.is_dir():
        raise DatasetError(f"{folder} is no folder: name the one that holds the photos.")
    tables = [_read(file) for file in _files(path)]
    examples = [example for table in tables for example in _examples(table, folder)]
    if not examples:
        raise DatasetError(f"{path} has no questions.")
    examples = list(_named(examples))
    _tell(path, tables[0].kind, examples)
    return examples


# ---- files as records ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """One file of questions: what kind it is, and its records."""

    kind: str
    path: Path
    records: list[Record]

    def place(self, record: Record) -> str:
        """Where a record stands, in words."""
        return f"{'line' if self.path.suffix.lower() in TABLES else 'entry'} {record.line}"


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DatasetError(f"{path} is neither a file of questions nor a folder with one.")
    known = {*TABLES, ".json"}
    found = [
        file
        for file in sorted(path.iterdir())
        if file.suffix.lower() in known and "question" in file.stem.lower()
    ]
    if not found:
        raise DatasetError(
            f"{path} has no file that is called after its questions, such as questions.csv: name "
            "the file."
        )
    return found


def _read(path: Path) -> _Table:
    suffix = path.suffix.lower()
    if suffix in CSV:
        return _Table("questions in CSV", path, list(csv_records(path)))
    if suffix in TABLES:
        return _Table("questions in JSON Lines", path, list(json_lines(path)))
    if suffix != ".json":
        raise DatasetError(f"{path} is no file of questions: name a .csv, .json or .jsonl file.")
    document = json_document(path)
    if isinstance(document, list):
        return _Table("questions in JSON", path, list(json_records(document, path)))
    if not isinstance(document, dict):
        raise DatasetError(f"{path} holds neither a JSON object nor a list of them.")
    found = questions_json.read_object(document, path)
    return _Table(found.kind, path, found.records)


# ---- records as examples -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    question: str
    image: str
    answers: str
    key: str
    kind: str
    split: str
    source: str


def _examples(table: _Table, photos: Path | None) -> list[Example]:
    columns = _columns(table)
    names = [name for row in table.records[:TRIED] for name in _names(row.values[columns.image])]
    split = split_in(Path(table.path.name)) or DEFAULT
    folders = photo_folders(
        photos or table.path.parent, [name for name in names if not name_fault(name)], split
    )
    found: dict[tuple[str, ...], Example] = {}
    lying: dict[tuple[str, ...], Path] = {}
    faults = []
    for record in table.records:
        values = record.values
        question = _one_line(_text(values.get(columns.question)))
        images = tuple(_names(values.get(columns.image)))
        fault = record.oddity or _fault(question) or name_fault(images[0] if images else "")
        if fault:
            faults.append(f"{table.place(record)}: {fault}")
            continue
        if images not in lying:
            lying[images] = _lies(images, folders)
        key = _text(values.get(columns.key))
        example = Example(
            image=lying[images],
            source=_text(values.get(columns.source)) or table.path.stem,
            split=split_name(_text(values.get(columns.split)) or split),
            references=tuple(_answers(values.get(columns.answers))),
            name=key or images[0],
            key=key,
            question=question,
            kind=_text(values.get(columns.kind)),
        )
        before = found.get(same := (key, images[0], question))
        if before is not None:
            example = replace(before, references=before.references + example.references)
        found[same] = example
    if faults:
        more = len(faults) - TOLD_FAULTS
        told = "; ".join(faults[:TOLD_FAULTS]) + (f"; and {more:,} more" if more > 0 else "")
        raise DatasetError(f"{table.path} has rows that cannot be asked. {told}.")
    return list(found.values())


def _columns(table: _Table) -> _Columns:
    names = list(dict.fromkeys(name for record in table.records for name in record.values))
    columns = _Columns(
        *(
            first_of(names, wanted)
            for wanted in (
                (QUESTION,),
                IMAGE_NAMES,
                ANSWER_NAMES,
                ID_NAMES,
                TYPE_NAMES,
                ("split",),
                ("source",),
            )
        )
    )
    if table.records and not (columns.question and columns.image):
        lacking = "image names" if columns.question else "questions"
        raise DatasetError(
            f"{table.path} has no column of {lacking} under a usual name (it has "
            f"{', '.join(names)}): call it {'image' if columns.question else 'question'}."
        )
    return columns


def _lies(names: Sequence[str], folders: tuple[Path, ...]) -> Path:
    """Where a photo lies that may be called by any of these names; by the first if nowhere."""
    places = [located(name, folders) for name in names if not name_fault(name)]
    return next((place for place in places if place.is_file()), places[0])


def _named(examples: Iterable[Example]) -> Iterator[Example]:
    """The examples, no two of one name."""
    taken: set[str] = set()
    times: dict[str, int] = {}
    for example in examples:
        name = example.name
        while name in taken:
            times[example.name] = times.get(example.name, 1) + 1
            name = f"{example.name}#{times[example.name]}"
        taken.add(name)
        yield example if name == example.name else replace(example, name=name)


def _names(value: Any) -> list[str]:
    """The names that a photo may have, of which a table has one."""
    values = value if isinstance(value, list) else [value]
    return [plain_name(_text(one)) for one in values]


def _answers(value: Any) -> Iterator[str]:
    """Answers in one cell: a text or number, or a list of such or of VQAv2's objects."""
    for one in value if isinstance(value, list) else [value]:
        said = one_line(_text(one.get("answer") if isinstance(one, dict) else one))
        if said:
            yield said


def _text(value: Any) -> str:
    return str(value).strip() if isinstance(value, (str, int, float)) else ""


def _one_line(text: str) -> str:
    kept = (" " if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text)
    return " ".join("".join(kept).split())


def _fault(question: str) -> str:
    """Why this cannot be asked, as a clause; empty if it can."""
    if not question:
        return "there is no question"
    if len(question) > LONGEST_QUESTION:
        return (
            f"it has {len(question):,} characters, and {LONGEST_QUESTION} are the most: shorten it"
        )
    if found := special_tokens([question]):
        return f"it holds {', '.join(found)}, which models do not take for text: take it out"
    return ""


def _tell(path: Path, kind: str, examples: Sequence[Example]) -> None:
    """Says in one sentence what was found."""
    photos = len({example.image for example in examples})
    answered = sum(bool(example.references) for example in examples)
    splits = ", ".join(dict.fromkeys(example.split for example in examples if example.split))
    about = f"{counted(len(examples), 'question')} about {counted(photos, 'photo')}"
    answers = {0: "without answers", len(examples): "with answers"}.get(
        answered, f"of which {answered:,} have answers"
    )
    log.info("%s is read as %s: %s, %s, in %s.", path, kind, about, answers, splits)
