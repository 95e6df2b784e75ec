"""Questions about photos, as the seed's table, in JSON, and as VQAv2 and RSVQA publish them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvla.data.questions import clean_question, read_questions
from qvla.data.tables import DatasetError
from qvla.errors import QvlaError


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def written(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def test_the_columns_of_a_curated_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = tmp_path / "questions.csv"
    table.write_text(
        "ID, Question, Answer, Filename\n"
        "718mYsQTQbL, What are the items in the image?, Bibs, 4c/4c533ad7.jpg\n"
        "718mYsQTQbL, What  colour is it?, Red, 4c/4c533ad7.jpg\n"
        "718mYsQTQbL, What colour is it?, Crimson, 4c/4c533ad7.jpg\n"
        ", How many are there?, 2, b.png\n"
    )
    inner = photo(tmp_path / "small" / "4c" / "4c533ad7.jpg")
    with caplog.at_level(logging.INFO, "qvla"):
        items, colour, many = read_questions(table)
    assert (items.name, colour.name, many.name) == ("718mYsQTQbL", "718mYsQTQbL#2", "b.png")
    assert (items.question, items.references) == ("What are the items in the image?", ("Bibs",))
    assert (colour.question, colour.references) == ("What colour is it?", ("Red", "Crimson"))
    assert items.image == colour.image == inner
    assert many.references == ("2",) and many.kind == ""
    assert "questions in CSV: 3 questions about 2 photos, with answers, in train." in caplog.text
    assert read_questions(tmp_path)[0] == items


@pytest.mark.parametrize("lines", [True, False])
def test_json_has_keys_in_any_case(lines: bool, tmp_path: Path) -> None:
    rows = [
        {"Question": "Is it rural?", "Answer": "yes", "Image": "a.png", "Type": "rural_urban"},
        {"Question": "How many?", "Answer": 3, "Image": "a.png", "Split": "valid"},
    ]
    path = tmp_path / ("q.jsonl" if lines else "q.json")
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    there = photo(tmp_path / "elsewhere" / "deep" / "a.png")
    first, second = read_questions(path, there.parents[1])
    assert (first.name, second.name) == ("a.png", "a.png#2")
    assert (first.kind, first.split, first.image) == ("rural_urban", "train", there)
    assert (second.references, second.split) == (("3",), "val")


def test_vqav2_as_it_is_published(tmp_path: Path) -> None:
    questions = [
        {"question_id": 262148000, "image_id": 262148, "question": "Where is he looking?"},
        {"question_id": 262148001, "image_id": 262148, "question": "Is it day?"},
    ]
    said = [{"answer": "down", "answer_confidence": "yes", "answer_id": 1}] * 7 + [
        {"answer": "at table", "answer_confidence": "maybe", "answer_id": 8}
    ] * 3
    named = written(
        tmp_path / "Questions" / "v2_OpenEnded_mscoco_val2014_questions.json",
        {"data_type": "mscoco", "data_subtype": "val2014", "questions": questions},
    )
    asked = read_questions(named)
    assert [one.references for one in asked] == [(), ()]
    written(
        tmp_path / "Annotations" / "v2_mscoco_val2014_annotations.json",
        {
            "annotations": [
                {
                    "question_id": 262148000,
                    "image_id": 262148,
                    "question_type": "none of the above",
                    "answer_type": "other",
                    "multiple_choice_answer": "down",
                    "answers": said,
                }
            ]
        },
    )
    there = photo(tmp_path / "val2014" / "COCO_val2014_000000262148.jpg")
    first, second = read_questions(named)
    assert (first.name, first.key, first.split) == ("262148000", "262148000", "val")
    assert first.references == ("down",) * 7 + ("at table",) * 3
    assert (first.kind, first.image) == ("other", there)
    assert (second.references, second.kind, second.image) == ((), "", there)


def test_rsvqa_as_it_is_published(tmp_path: Path) -> None:
    def question(number: int, image: int, kind: str, text: str, answer: int) -> dict[str, Any]:
        known = {"id": number, "img_id": image, "type": kind, "question": text}
        return {**known, "answers_ids": [answer], "active": True, "people_id": 0}

    def part(kind: str, entries: list[dict[str, Any]]) -> Path:
        return written(tmp_path / f"LR_split_test_{kind}.json", {kind: entries})

    named = part(
        "questions",
        [
            {"id": 0, "active": False},
            question(5, 16, "presence", "Is there a road?", 8),
            question(6, 17, "count", "What is the number of roads?", 9),
        ],
    )
    part("answers", [{"id": 8, "answer": "yes", "active": True}, {"id": 9, "answer": 12}])
    part("images", [{"id": 17, "original_name": "north.tif", "active": True}])
    road, count = photo(tmp_path / "Images_LR" / "16.tif"), tmp_path / "Images_LR" / "north.tif"
    photo(count)
    first, second = read_questions(tmp_path)
    assert named.is_file()
    assert (first.name, first.question, first.references) == ("5", "Is there a road?", ("yes",))
    assert (first.kind, first.split, first.image) == ("presence", "test", road)
    assert (second.kind, second.references, second.image) == ("count", ("12",), count)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ('a.png,"Is it?","yes"\n,Is it?,no\n', "line 3: there is no image name"),
        (f"a.png,{'x' * 201},yes\n", "line 2: it has 201 characters, and 200 are the most"),
        ("a.png,  ,yes\n", "line 2: there is no question"),
        ("a.png,Is <eos> there?,yes\n", "line 2: it holds <eos>"),
        ("../a.png,Is it?,yes\n", "line 2: '../a.png' leaves the data's folder"),
        ('a.png,Is it?,yes\na.png,"Is it?,yes\nb.png,Why?,\n', "line 3: a quote is opened here"),
        ("a.png,,yes\n" * 5, "line 4: there is no question; and 2 more."),
        ("", "has no questions"),
    ],
)
def test_rows_that_cannot_be_asked_are_named(rows: str, told: str, tmp_path: Path) -> None:
    table = tmp_path / "q.csv"
    table.write_text(f"image,question,answer\n{rows}")
    with pytest.raises(DatasetError) as raised:
        read_questions(table)
    assert told in str(raised.value) and str(raised.value).startswith(str(table))


def test_what_is_no_file_of_questions(tmp_path: Path) -> None:
    captions = written(tmp_path / "captions.json", {"images": [], "annotations": []})
    table = tmp_path / "table.csv"
    table.write_text("image,caption\na.png,a road\n")
    for source, told in (
        (captions, "VQAv2's or RSVQA's"),
        (table, "no column of questions under a usual name (it has image, caption)"),
        (tmp_path, "called after its questions"),
        (tmp_path / "none", "neither a file of questions nor a folder"),
        (photo(tmp_path / "a.png"), "name a .csv, .json or .jsonl file"),
    ):
        with pytest.raises(DatasetError, match=told.replace("(", r"\(").replace(")", r"\)")):
            read_questions(source)


def test_a_question_is_asked_on_one_line() -> None:
    assert clean_question(" How many\n\tships\0are there? ") == "How many ships are there?"
    for text, told in (("\n", "no question"), ("?" * 201, "201"), ("<image> what?", "<image>")):
        with pytest.raises(QvlaError, match=f"^The question cannot be asked: .*{told}.*\\.$"):
            clean_question(text)
