"""Questions in JSON as the field keeps them: VQAv2's pair of files, and RSVQA's three.

VQAv2 (Goyal et al. 2017): {"data_subtype", "questions": [{"question_id", "image_id", "question"}]},
and beside it {"annotations": [{"question_id", "answers": [{"answer"}], "answer_type"}]}.
RSVQA (Lobry et al. 2020, arXiv 2003.07333): {"questions": [{"id", "img_id", "type", "question",
"active", "answers_ids"}]}, and beside it {"answers": [{"id", "answer"}]} and {"images": [{"id",
"original_name"}]}; a photo is called by the number of its image. A list of objects is read as a
table (`questions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvla.data.tables import DatasetError, Record, json_document

# What the records of both have.
ID, QUESTION, ANSWERS, IMAGE, TYPE = "id", "question", "answers", "image", "type"
PHOTO_ENDS = (".tif", ".png", ".jpg", ".jpeg")  # of RSVQA's photos, and of copies of them


@dataclass(frozen=True)
class Questions:
    """What kind of file it is, and its questions as records; IMAGE lists the names to try."""

    kind: str
    records: list[Record]


def read_object(document: Mapping[str, Any], path: Path) -> Questions:
    """A JSON object of one of the two kinds. Raises DatasetError for any other."""
    questions = _objects(document, "questions")
    if any("image_id" in question for question in questions):
        return Questions("VQAv2's questions", list(_vqav2(document, questions, path)))
    if any("img_id" in question for question in questions):
        return Questions("RSVQA's questions", list(_rsvqa(questions, path)))
    raise DatasetError(
        f"{path} holds no questions: it must be VQAv2's or RSVQA's file of questions, or a list of "
        "objects with question, answer and image."
    )


def _vqav2(
    document: Mapping[str, Any], questions: list[dict[str, Any]], path: Path
) -> Iterator[Record]:
    """The type is that of the answer (yes/no, number, other), by which VQAv2 is reported."""
    said = {str(one.get("question_id")): one for one in _beside(path, "annotations")}
    subset = str(document.get("data_subtype", "val2014")).replace("test-dev", "test")
    for number, question in enumerate(questions, start=1):
        key, image = question.get("question_id"), question.get("image_id")
        known = said.get(str(key), {})
        name = f"COCO_{subset}_{image:012d}.jpg" if isinstance(image, int) else image
        values = {ID: key, QUESTION: question.get("question"), IMAGE: [name]}
        kind = known.get("answer_type") or known.get("question_type")
        yield Record(number, {**values, ANSWERS: known.get("answers"), TYPE: kind})


def _rsvqa(questions: list[dict[str, Any]], path: Path) -> Iterator[Record]:
    answers = {str(one.get("id")): one.get("answer") for one in _beside(path, "answers")}
    images = {
        str(one.get("id")): str(one["original_name"])
        for one in _beside(path, "images")
        if "original_name" in one
    }
    for number, question in enumerate(questions, start=1):
        if question.get("active") is False:
            continue
        image = str(question.get("img_id"))
        names = [f"{image}{end}" for end in PHOTO_ENDS]
        if image in images:
            names.append(images[image])
        keys = question.get("answers_ids")
        said = [answers[str(key)] for key in keys or () if str(key) in answers]
        values = {ID: question.get("id"), QUESTION: question.get("question"), IMAGE: names}
        yield Record(number, {**values, ANSWERS: said, TYPE: question.get("type")})


def _beside(path: Path, kind: str) -> list[dict[str, Any]]:
    """The list of this name in the file that goes with one of questions; empty without a file."""
    for name in _called(path.name, kind):
        for folder in (path.parent, path.parent.parent / kind.title(), path.parent.parent / kind):
            file = folder / name
            if name != path.name and file.is_file():
                document = json_document(file)
                return _objects(document if isinstance(document, dict) else {}, kind)
    return []


def _called(name: str, kind: str) -> Iterable[str]:
    """As VQAv2 and RSVQA call the files that go with `…_questions.json`."""
    plain = name.replace("questions", kind)
    return dict.fromkeys(
        (plain, plain.replace("OpenEnded_", ""), plain.replace("MultipleChoice_", ""))
    )


def _objects(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    values = document.get(key)
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []
