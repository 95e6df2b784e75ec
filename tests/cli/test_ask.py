"""`qvla ask`: one question about one photo, or a file of them, answered by each contender."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qvla.captioning import engine
from qvla.errors import UNUSABLE
from tests.support.alone import LENGTH, Alone, Weights, photos

Run = Callable[..., tuple[int, str, str]]
QUESTION = "Are there many planes?"


@pytest.fixture
def asked(weights: Weights) -> list[object]:
    model = ["--model", weights.model, "--adapter", weights.adapter]
    return [*model, "--variant", "base,adapter", "--max-new-tokens", LENGTH]


@pytest.fixture
def questions(files: list[str], tmp_path: Path) -> Path:
    """Four questions about two photos and one that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, file in enumerate(files[:2]):
        shutil.copy(file, folder / f"{number}.png")
    (folder / "torn.png").write_bytes(b"no photo")
    table = tmp_path / "questions.csv"
    table.write_text(
        "ID,Question,Answer,Filename\n"
        "a,Is the river green?,yes,0.png\n"
        "b,Describe the beach,sand,0.png\n"
        "c,Is it white?,no,torn.png\n"
        "d,Is the river green?,no,1.png\n"
    )
    return table


def test_one_question_is_answered_as_each_contender_alone_does(
    run: Run, weights: Weights, files: list[str], asked: list[object]
) -> None:
    command = ["ask", files[0], f"  {QUESTION}\n", *asked]
    code, output, _ = run(*command, "--json")
    assert code == 0
    result = json.loads(output)
    assert (result["photo"], result["question"]) == (files[0], QUESTION)
    assert list(result["variants"]) == ["base", "adapter"]
    for name, adapter in (("base", None), ("adapter", weights.adapter)):
        alone = Alone(weights.model, adapter)
        told = result["variants"][name]
        assert told["answer"] == alone.text(photos(1)[0], prompt=f"<image>answer en {QUESTION}")
        assert 0 < told["seconds_to_first_token"] <= told["seconds"] and told["tokens"] >= 1
    assert result["notes"] == [
        "The vocabulary of Base and Adapter lacks 'there' and '?': ask in other words."
    ]
    lines = run(*command)[1].splitlines()
    assert (
        lines[:2] == [files[0], f"  {QUESTION}"]
        and result["variants"]["base"]["answer"] in (lines[3])
    )


def test_many_questions_go_on_where_they_were_cut_off(
    run: Run,
    asked: list[object],
    questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[tuple[int, int]] = []
    real = engine.caption

    def counted(lineup: Any, images: list[Any], *options: Any) -> Any:
        sizes.append((len(images), len({id(image) for image in images})))
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return real(lineup, images, *options)

    monkeypatch.setattr(engine, "caption", counted)
    out = tmp_path / "answers.jsonl"
    command = ["ask", "--questions", questions, *asked, "--batch-size", 2, "--out", out]
    assert run(*command)[0] == 130
    code, output, errors = run(*command, "--json")
    # Two questions about one photo, which is opened once; the next were cut off and asked again.
    assert sizes == [(2, 1), (1, 1), (1, 1)]
    results = json.loads(output)
    assert code == 1 and "3 of 4 questions are answered in" in errors and "torn.png: " in errors
    assert [result["id"] for result in results] == ["a", "b", "c", "d"]
    assert ["error" in result for result in results] == [False, False, True, False]
    assert results[0]["references"] == ["yes"] and results[2]["question"] == "Is it white?"
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == list("abcd")
    assert run(*command)[0] == 1 and len(sizes) == 3  # the one that failed is tried again
    assert run("caption", results[0]["photo"], *asked, "--out", out)[0] == UNUSABLE


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["x" * 201], "it has 201 characters"),
        (["Is <eos> there?"], "it holds <eos>"),
        ([" "], "there is no question"),
        ([], "Name a photo and a question"),
        ([QUESTION, "--photos", "."], "--photos says where"),
        ([QUESTION, "--questions", "q.csv"], "Name either"),
        ([QUESTION, "--variant", "base,ships"], "asked for was ships"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    arguments: list[str], told: str, run: Run, weights: Weights, files: list[str]
) -> None:
    code, output, errors = run("ask", files[0], *arguments, "--model", weights.model)
    assert (code, output) == (UNUSABLE, "")
    assert told in errors.strip().splitlines()[-1] and "Traceback" not in errors


def test_a_photo_that_cannot_be_read_has_an_error_for_an_answer(
    run: Run, asked: list[object], tmp_path: Path
) -> None:
    code, output, errors = run("ask", tmp_path / "none.png", QUESTION, *asked, "--json")
    result = json.loads(output)
    assert code == 1 and set(result) == {"photo", "question", "error"}
    assert result["error"] in errors
    code, _, errors = run("ask", tmp_path, QUESTION, *asked)
    assert code == UNUSABLE and "is a folder" in errors
