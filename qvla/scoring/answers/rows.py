"""Reads answers to questions of any system, and people's, in the forms people have.

CSV, JSON Lines and lists in JSON of question, answer (or a list, `answers`) and image or ID, in any
case; VQAv2's annotations and results; and what `qvla ask` writes. A row may bring `regions`, the
parts of the photo that the answer stands on, or in a file of right answers the question; a row of
predictions `question_regions` too.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvla.scoring.checks import ScoringError
from qvla.scoring.entries import Entry, Form, numbered, read_entries, reading

LONGEST = 5000  # characters of a question, an answer or a name
IMAGE_FIELDS = ("image", "file_name", "filename", "image_name", "image_path", "path", "photo")
ID_FIELDS = ("id", "question_id", "qid")
ANSWER_FIELDS = ("answers", "answer", "prediction")
NUMBERED = re.compile(r"answer_?\d+")
REGIONS, QUESTION_REGIONS = "regions", "question_regions"
NEEDED = "question, answer, and image or ID"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One question and what was answered; `where` it stands in its file, such as `line 3`.

    The key is the row's ID; it or the image may be empty, and the question. Regions are None where
    the row does not tell any.
    """

    where: str
    image: str
    key: str
    question: str
    answers: tuple[str, ...]
    regions: frozenset[str] | None = None
    question_regions: frozenset[str] | None = None
    source: str = ""
    split: str = ""

    @property
    def title(self) -> str:
        """What it is called in sentences."""
        return ", ".join(filter(None, (self.key or self.image, self.question)))


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, those of photos that could not be answered left out.

    Raises ScoringError when it cannot be read, is too large, or a row lacks what it needs; the
    message names the file and the line.
    """
    rows = []
    with reading(path):
        kind, entries = read_entries(path, FORM)
        for entry in entries:
            try:
                row = _row(entry)
            except ValueError as error:
                raise ScoringError(f"{path.name}, {entry.where}, {error}.") from error
            if row is not None:
                rows.append(row)
    if not rows:
        raise ScoringError(
            f"{path.name} holds no answers; give one JSON object a line, of {NEEDED}."
        )
    if kind is not None:
        log.info("%s is read as %s: %s answers.", path.name, kind, f"{len(rows):,}")
    return rows


def _of_document(document: Any, path: Path) -> tuple[str, Iterator[Entry]]:
    if isinstance(document, list):
        return "a list in JSON", numbered(document)
    if isinstance(document, dict) and isinstance(document.get("annotations"), list):
        return "VQAv2's annotations", numbered(document["annotations"])
    raise ScoringError(f"{path.name} is neither JSON Lines nor a list of {NEEDED}.")


FORM = Form(
    ((*IMAGE_FIELDS, *ID_FIELDS), (*ANSWER_FIELDS, "answer_0", "answer_1")), NEEDED, _of_document
)


def _row(entry: Entry) -> Row | None:
    """Raises ValueError with what the entry does wrong, as a clause."""
    if not isinstance(entry.values, dict):
        raise ValueError(f"is not a JSON object of {NEEDED}")
    values = {name.lower(): value for name, value in entry.values.items()}
    if isinstance(values.get("error"), str) and "photo" in values:
        return None
    row = Row(
        where=entry.where,
        image=_text(values, *IMAGE_FIELDS),
        key=_text(values, *ID_FIELDS),
        question=_text(values, "question"),
        answers=tuple(_answers(values)),
        regions=_regions(values, REGIONS),
        question_regions=_regions(values, QUESTION_REGIONS),
        source=_text(values, "source"),
        split=_text(values, "split"),
    )
    if not row.image and not row.key:
        raise ValueError("has neither an image nor an ID")
    return row


def _answers(values: Mapping[str, Any]) -> Iterator[str]:
    """At least one answer, which may be empty."""
    said = next((values[name] for name in ANSWER_FIELDS if values.get(name) is not None), None)
    if isinstance(values.get("variants"), dict):
        said = _only_variant(values["variants"])
    if isinstance(said, str) and said.lstrip().startswith("["):  # a list in a cell
        said = _parsed(said)
    answers = said if isinstance(said, list) else [said]
    numbered = [values[name] for name in values if NUMBERED.fullmatch(name) and values[name]]
    if numbered and said is None:
        answers = []
    if said == []:
        raise ValueError("has an empty list of answers")
    for one in (*answers, *numbered):
        yield _checked(one.get("answer") if isinstance(one, dict) else one, "answer")


def _only_variant(variants: Mapping[str, Any]) -> Any:
    if len(variants) != 1:
        raise ValueError(
            f"holds answers of {', '.join(variants) or 'nobody'}: make it with one of them, as "
            "`qvla ask --variant NAME` does"
        )
    (answer,) = variants.values()
    return answer.get("answer") if isinstance(answer, dict) else None


def _text(values: Mapping[str, Any], *names: str) -> str:
    """The first of these fields that is there, as text; empty without any."""
    for name in names:
        if values.get(name) not in (None, ""):
            return " ".join(_checked(values[name], name).split())
    return ""


def _checked(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"has no text in the field {name}")
    text = str(value).strip()
    if len(text) > LONGEST:
        raise ValueError(f"has more than {LONGEST:,} characters in the field {name}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"has half a character in the field {name}") from None
    return text


def _regions(values: Mapping[str, Any], name: str) -> frozenset[str] | None:
    """Names or numbers of regions: a list, or in a cell a list or what spaces or commas part."""
    given = values.get(name)
    if given in (None, ""):
        return None
    if isinstance(given, str):
        given = _parsed(given) if given.lstrip().startswith("[") else re.split(r"[\s,;]+", given)
    if not isinstance(given, list):
        raise ValueError(f"has no list in the field {name}")
    return frozenset(filter(None, (_checked(one, name) for one in given)))


def _parsed(cell: str) -> Any:
    """The list in JSON that a cell holds, or the cell itself where it holds none."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
