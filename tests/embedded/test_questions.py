from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest

from qvla.data.questions import read_questions
from qvla.data.risc import Example
from qvla.embedded.question_rules import THINGS, Facts, Thing, Usual, facts_of
from qvla.embedded.questions import KINDS, main, make_questions
from qvla.embedded.sources import TrainingPhoto
from qvla.models.families.word_tokens import split_words
from qvla.settings import EMBEDDED_MODEL

# What photos of a scene are said to show, each in one caption of three that say the same.
ROOFS = ("red", "grey", "blue", "white")
SAID = {
    "airport": ("two white planes are in an airport .", "many planes are parked on the runway ."),
    "port": ("many boats are in the port .", "a boat is near a pier ."),
    "denseresidential": tuple(f"lots of houses with {colour} roofs ." for colour in ROOFS),
    "desert": ("it is a piece of desert .", "here is a desert of sand ."),
    "pond": ("two ponds are near a park .", "a pond is near four tennis courts ."),
    "tenniscourt": ("three tennis courts .", "there are four tennis courts and a pond ."),
    "forest": ("many trees are in a forest .",),
    "beach": ("waves are near a beach .",),
    "church": ("here is a church .",),
    "bridge": ("a bridge is over the water .", "two bridges are over the water ."),
    "mountain": ("some green mountains .",),
    "stadium": ("a large stadium .",),
}


def photo(scene: str, *captions: str, number: int = 0) -> TrainingPhoto:
    return TrainingPhoto(Example(Path(f"{scene}_{number}.jpg"), "MADE", "train", captions), scene)


@pytest.fixture(scope="module")
def photos() -> list[TrainingPhoto]:
    rng = random.Random(1)
    return [
        photo(scene, *3 * [rng.choice(SAID[scene])], number=number)
        for number in range(40)
        for scene in SAID
    ]


@pytest.fixture(scope="module")
def questions(photos: list[TrainingPhoto]) -> list[Example]:
    return make_questions(photos, Usual(photos), seed=3)


def facts(scene: str, *captions: str) -> Facts:
    """Of a photo among others that show nothing but trees."""
    others = [photo(scene, "many trees .") for _ in range(60)]
    return facts_of(photo(scene, *captions), Usual(others))


def named(name: str) -> Thing:
    return next(thing for thing in THINGS if thing.one == name)


@pytest.mark.parametrize(
    ("caption", "thing", "span"),
    [
        ("two large white storage tanks are on the ground .", "storage tank", (2, 2)),
        ("a bridge is over the river .", "bridge", (1, 1)),
        ("a large number of aircraft are at the airport .", "airplane", (6, float("inf"))),
        ("several planes are parked .", "airplane", (2, float("inf"))),
        ("rows of houses are here .", "house", (6, float("inf"))),
        ("two roads and houses with trees .", "house", (2, float("inf"))),
        ("four baseball diamonds next to a pond .", "baseball field", (4, 4)),
    ],
)
def test_numbers_are_read_where_they_stand_before_a_thing(
    caption: str, thing: str, span: tuple[float, float]
) -> None:
    assert facts("park", caption, caption).counts[named(thing)] == span


def test_captions_that_disagree_on_a_number_or_a_colour_tell_none() -> None:
    told = facts("park", "two ponds with a red roof .", "three ponds with white roofs .")
    assert named("pond") in told.there
    assert named("pond") not in told.counts
    assert told.colours == {}
    told = facts("park", "a red roof .", "red roofs .", "a red and green court .")
    assert told.colours == {"roof": "red", "roofs": "red"}


def test_a_thing_is_absent_only_where_it_would_have_been_said() -> None:
    told = facts("park", "many trees near a bridge .", "many trees near a bridge .")
    assert named("airplane") in told.absent
    assert named("river") not in told.absent  # a bridge hints at one
    assert not told.absent & told.there
    said = [photo("park", "a church is in a park .") for _ in range(60)]
    usual = facts_of(photo("park", "many trees .", "many trees ."), Usual(said))
    assert named("church") not in usual.absent  # parks here have one


def test_no_answer_can_be_guessed_from_how_often_it_is_right(questions: list[Example]) -> None:
    kinds = {row.kind for row in questions}
    assert kinds == set(KINDS)
    for name, kind in KINDS.items():
        answers = Counter(row.references[0] for row in questions if row.kind == name)
        most = max(answers.values()) / answers.total()
        if kind.share == 0.5:
            assert answers["yes"] == answers["no"] > 0
        elif len(answers) > 1 / kind.share:  # else there are too few answers to be fair with
            assert most <= kind.share, name
    asked = Counter((row.question, row.references[0]) for row in questions)
    for thing in ("airplane", "boat", "pond"):
        wordings = {text for text, _ in asked if f" {thing}" in text and "more" not in text}
        wordings -= {text for text in wordings if text.startswith("how")}
        yes, no = (sum(asked[text, answer] for text in wordings) for answer in ("yes", "no"))
        assert yes == no > 0


def test_rows_of_a_photo_stand_together_and_have_names_of_their_own(
    questions: list[Example], photos: list[TrainingPhoto]
) -> None:
    images = [row.image for row in questions]
    assert len({row.name for row in questions}) == len(questions)
    assert [image for image, _ in groupby(images)] == list(dict.fromkeys(images))
    for row in questions:
        assert row.name.startswith(row.image.name)


def test_the_embedded_model_knows_the_words(questions: list[Example]) -> None:
    vocabulary = json.loads((EMBEDDED_MODEL / "tokenizer.json").read_text())["model"]["vocab"]
    words = {word for row in questions for word in split_words(row.question)}
    assert words - set(vocabulary) <= {"how"}
    assert {word for thing in THINGS for word in split_words(f"{thing.one} {thing.many}")} <= set(
        vocabulary
    )
    assert {word for row in questions for word in split_words(row.references[0])} <= set(vocabulary)


@pytest.mark.slow
def test_the_command_writes_a_table_that_is_read_as_questions_and_the_same_in_every_run(
    tmp_path: Path, photos: list[TrainingPhoto], capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        ["MADE", "train" if number % 2 else "val", one.example.name, *one.example.references]
        for number, one in enumerate(photos)
    ]
    head = ["source", "split", "image", "caption_1", "caption_2", "caption_3"]
    write(data / "captions.csv", head, rows)
    write(
        data / "origin.csv", ["image", "scene_class"], [[p.example.name, p.scene] for p in photos]
    )
    write(data / "nwpu_train_extra.csv", ["image", "caption", "scene_class"], [])
    given = ["--data", str(data), "--out", str(tmp_path / "1.csv")]
    assert main(given) == 0
    subprocess.run(
        [sys.executable, "-m", "qvla.embedded.questions", *given[:3], str(tmp_path / "2.csv")],
        check=True,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)},  # another order of sets
    )
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    read = read_questions(tmp_path / "1.csv", data)
    assert {row.kind for row in read} <= set(KINDS)
    assert all(row.question and len(row.references) == 1 for row in read)
    assert main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "3.csv")]) == 1
    assert "nowhere" in capsys.readouterr().err


def write(path: Path, head: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
