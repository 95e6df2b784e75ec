"""Files of answers from anywhere: how questions are found in both, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qvla.scoring import ScoringError
from qvla.scoring.answers import SIMPLE
from qvla.scoring.answers.files import score_answer_files
from qvla.scoring.files import FileScores

# The seed's own columns.
TABLE = """ID,Question,Answer,Filename
a1,What color is the basket?,Brown,9b/147e.jpg
a1,How many baskets?,2,9b/147e.jpg
b2,"What material, most likely?",silicone,dd/6403.jpg
"""


def scored(
    folder: Path, predictions: str, references: str = TABLE, **options: object
) -> FileScores:
    said, due = folder / "said", folder / "due"
    said.write_text(predictions)
    due.write_text(references)
    return score_answer_files(said, due, **{"metrics": SIMPLE, "resamples": 9, **options})


def lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


BROWN = {"question": "what color is  the basket?", "answer": "brown"}
TWO = {"question": "How many baskets?", "answer": 2}
BASKETS = {"id": "a1", **TWO}
ONE = {"id": 1, "answer": "a"}


@pytest.mark.parametrize(
    "predictions",
    [
        lines({"id": "a1", **BROWN}, {"ID": "a1", **TWO}, {"id": "b2", "answer": "Silicone."}),
        lines(
            {"image": "9b/147e.jpg", **BROWN},
            {"photo": "147e.jpg", **TWO},
            {"Filename": "b\\6403.jpg", "Answer": "silicone"},
        ),
        json.dumps(
            [
                {"image": "147e.jpg", **BROWN},
                {"image": "147e.jpg", **TWO},
                {"photo": "6403.jpg", "variants": {"qvla": {"answer": "silicone"}}},
                {"photo": "broken.jpg", "error": "This is no photo."},
            ],
            indent=1,
        ),
        'image;question;answer\n147e.jpg;"What color is the basket?";Brown\n'
        "147e.jpg;How many baskets?;2\n6403.jpg;What material, most likely?;silicone\n",
    ],
)
def test_a_question_is_found_by_id_or_image(tmp_path: Path, predictions: str) -> None:
    result = scored(tmp_path, predictions)
    assert result.scored.images == 3
    assert result.scored.metrics["exact_match"].value == 1
    assert result.missing_predictions == result.missing_references == ()


def test_what_is_on_one_side_only_is_named(tmp_path: Path) -> None:
    result = scored(
        tmp_path, lines({"id": "a1", **TWO}, {"id": "c", "question": "?", "answer": ""})
    )
    assert result.scored.images == 1
    assert result.missing_references == ("c, ?",)
    assert result.missing_predictions == (
        "a1, What color is the basket?",
        "b2, What material, most likely?",
    )


def test_several_right_answers(tmp_path: Path) -> None:
    people = ["a red", "red", "red.", *["other"] * 7]
    vqav2 = {"annotations": [{"question_id": 7, "answers": [{"answer": one} for one in people]}]}
    result = scored(tmp_path, '[{"question_id": 7, "answer": "Red"}]', json.dumps(vqav2))
    # three of ten: (3 * 2/3 + 7 * 1) / 10
    assert result.scored.metrics["vqa_accuracy"].value == pytest.approx(0.9)
    for references in (
        lines({"image": "7", "question": "q", "answers": people}),
        lines(*({"image": "7", "question": "q", "answer": one} for one in people)),
        "image,question,"
        + ",".join(f"answer_{n}" for n in range(10))
        + f"\n7,q,{','.join(people)}",
        "image\tquestion\tanswers\n7\tq\t" + json.dumps(people),
    ):
        same = scored(tmp_path, lines({"image": "7", "question": "q", "answer": "Red"}), references)
        assert same.scored.metrics["vqa_accuracy"].value == pytest.approx(0.9)


def test_right_answers_in_rsvqa_s_own_files(tmp_path: Path) -> None:
    made = {
        "LR_split_val_questions.json": {
            "questions": [
                {
                    "id": 1,
                    "img_id": 5,
                    "question": "Rural?",
                    "type": "rural_urban",
                    "answers_ids": [9],
                },
                {
                    "id": 2,
                    "img_id": 5,
                    "question": "A lake?",
                    "type": "presence",
                    "answers_ids": [],
                },
            ]
        },
        "LR_split_val_answers.json": {"answers": [{"id": 9, "answer": "rural"}]},
    }
    for name, content in made.items():
        (tmp_path / name).write_text(json.dumps(content))
    said = tmp_path / "said"
    said.write_text(lines({"image": "5.tif", "question": "rural?", "answer": "Rural"}))
    for source in (tmp_path, tmp_path / "LR_split_val_questions.json"):
        result = score_answer_files(said, source, metrics=SIMPLE, splits=["val"])
        assert result.scored.images == result.scored.metrics["exact_match"].value == 1
        assert result.missing_predictions == ()


def test_splits_and_sources(tmp_path: Path) -> None:
    references = lines(
        {"id": 1, "answer": "a", "split": "validation", "source": "LR"},
        {"id": 2, "answer": "a", "split": "val", "source": "HR"},
        {"id": 3, "answer": "a", "split": "test", "source": "LR"},
        {"id": 4, "answer": "", "split": "val", "source": "LR"},
    )
    said = lines(*({"id": number, "answer": "a"} for number in range(1, 5)))
    assert scored(tmp_path, said, references).scored.images == 3
    chosen = scored(tmp_path, said, references, splits=["val"], sources=["LR"])
    assert chosen.scored.images == 1
    with pytest.raises(ScoringError, match="no right answers of that split"):
        scored(tmp_path, said, references, splits=["train"])


def test_regions_make_vtgs(tmp_path: Path) -> None:
    references = lines(
        {"id": 1, "answer": "1", "regions": [1, 2, 3]},
        {"id": 2, "answer": "1"},
        {"id": 3, "answer": "1", "regions": [4]},
    )
    said = lines(
        {"id": 1, "answer": "1", "regions": [3, 4]},  # one of four
        {"id": 2, "answer": "1", "regions": "5 6", "question_regions": [6]},  # one of two
        {"id": 3, "answer": "1"},  # none were given
    )
    result = scored(tmp_path, said, references, metrics=["vtgs"])
    assert result.scored.per_image["vtgs"] == pytest.approx({"1": 0.25**0.5, "2": 0.5**0.5})


@pytest.mark.parametrize(
    ("predictions", "references", "said"),
    [
        ("", TABLE, "said holds no answers"),
        ("x,y\n1,2\n", TABLE, "said, line 1, is not JSON"),
        (lines(ONE, {"id": 2}), TABLE, "said, line 2, has no text in the field"),
        (lines({"answer": "a"}), TABLE, "said, line 1, has neither an image nor an ID"),
        (lines({"id": 1, "answer": ["a", "b"]}), TABLE, "said, line 1, has 2 answers: give one"),
        (lines({"id": 1, "answer": []}), TABLE, "said, line 1, has an empty list of answers"),
        (lines({"id": 1, "answer": True}), TABLE, "line 1, has no text in the field answer"),
        (lines({"id": 1, "answer": "x" * 6000}), TABLE, "more than 5,000 characters"),
        (lines({**ONE, "regions": 3}), TABLE, "no list in the field regions"),
        (lines({**ONE, "variants": {}}), TABLE, "holds answers of nobody"),
        (lines(BASKETS, BASKETS), TABLE, "line 2, answers a1, .* again, after line 1"),
        (lines({"id": "zz", "answer": "a"}), TABLE, "None of the 1 answered questions .zz. is"),
        (lines(BASKETS), "ID,Answer\na1\n", "due, line 2, has no text in the field answer"),
        (lines(BASKETS), "{}", "due is neither JSON Lines"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(
    tmp_path: Path, predictions: str, references: str, said: str
) -> None:
    with pytest.raises(ScoringError, match=said) as refusal:
        scored(tmp_path, predictions, references)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 250


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="none cannot be read: No such file"):
        score_answer_files(tmp_path / "said", tmp_path / "none")
