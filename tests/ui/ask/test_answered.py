"""The questions of an evaluation with what was answered, from files made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvla.settings import Settings
from qvla.ui.ask.answered import Answered, read_answered, render_question, render_questions
from qvla.ui.ask.question_folder import QuestionFolder
from qvla.ui.measured.evaluations import find_evaluations
from qvla.ui.measured.scored_photos import PhotosMissingError
from tests.support.evaluations import write_answers
from tests.support.serving import write_photo

QUESTIONS = """ID,Question,Answer,Filename,Type
q1,Is there a river?,yes,a.png,presence
q2,How many <b>ships</b> are there?,two,a.png,count
q3,How many cars are there?,three,gone.png,count
q4,Which scene is this?,harbour,a.png,scene
"""
BASE = {"q1": "Yes.", "q2": "one", "q3": "three", "q4": "farm"}
ADAPTER = {"q1": "yes", "q2": "two", "q3": "four", "q4": ""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "questions.csv").write_text(QUESTIONS)
    write_photo(folder / "a.png")
    return folder


@pytest.fixture
def answered(tmp_path: Path, folder: Path) -> Answered:
    write_answers(tmp_path, {"base": BASE, "adapter": ADAPTER})
    settings = Settings(records=tmp_path / "records", jobs=tmp_path / "jobs")
    [evaluation] = find_evaluations(settings, pytest.fail, "answers")
    return read_answered(evaluation, [QuestionFolder(tmp_path), QuestionFolder(folder)])


def test_questions_are_filtered_by_type_and_by_who_was_right(answered: Answered) -> None:
    def shown(kind: str = "all", show: str = "all") -> list[str]:
        return [one.name for one in answered.page(kind, show).questions]

    assert answered.kinds == ["presence", "count", "scene"]
    assert shown() == ["q1", "q2", "q3", "q4"]
    assert shown("count") == ["q2", "q3"]
    assert [key for _, key in answered.shows] == [
        *("all", "differ", "none", "wrong-base", "wrong-adapter")
    ]
    assert shown(show="differ") == ["q2", "q3"]
    assert shown(show="none") == ["q4"]
    assert shown(show="wrong-base") == ["q2", "q4"]
    assert shown("count", "wrong-adapter") == ["q3"]
    page = answered.page("presence", "none", number=7)
    assert (page.questions, page.number, page.pages, page.matching) == ((), 1, 1, 0)


def test_as_html(answered: Answered) -> None:
    tiles = render_questions(answered, answered.page())
    assert tiles.count("<li>") == 4 and tiles.count("<img") == 3
    assert "q3 cannot be read" in tiles and "&lt;b&gt;ships" in tiles and "<b>ships" not in tiles
    assert "2 of 2 right" in tiles and "0 of 2 right" in tiles
    opened = render_question(answered, "q2")
    assert (
        "&lt;b&gt;ships" in opened and "<li>two</li>" in opened and "<span>count</span>" in opened
    )
    assert opened.index("not the right answer") < opened.index('"score">right')
    assert "It said nothing." in render_question(answered, "q4")
    assert "gone.png" in render_question(answered, "q3")


def test_what_is_not_here_is_said(tmp_path: Path, answered: Answered) -> None:
    with pytest.raises(PhotosMissingError, match=r"\(asked\) are not on this machine: set QVLA_DA"):
        read_answered(answered.evaluation, [QuestionFolder(tmp_path)])
    for file in (tmp_path / "evaluations").rglob("*.jsonl"):
        file.unlink()
    with pytest.raises(PhotosMissingError, match="The answers of this evaluation are not on"):
        read_answered(answered.evaluation, [QuestionFolder(tmp_path / "data")])
    (tmp_path / "data" / "questions.csv").write_text("nothing\nof it\n")
    assert QuestionFolder(tmp_path / "data").questions() == {}
