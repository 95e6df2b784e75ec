"""`qvla score --task vqa` through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qvla.cli.main import main
from qvla.errors import UNUSABLE
from qvla.scoring.answers import score_answers

ROWS = {"a.jpg": ("2", "2"), "b.jpg": ("Rural.", "rural"), "c.jpg": ("yes", "no")}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    said, due = tmp_path / "said.jsonl", tmp_path / "due.csv"
    question = "What is there?"
    rows = [{"image": i, "question": question, "answer": a} for i, (a, _) in ROWS.items()]
    said.write_text("\n".join(json.dumps(row) for row in rows))
    table = [f"{image},{question},{truth}" for image, (_, truth) in ROWS.items()]
    due.write_text("\n".join(["image,question,answer", *table]))
    return ["score", "--task", "vqa", "--predictions", str(said), "--references", str(due)]


def test_json_and_table_say_the_same(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--resamples", "50", "--seed", "3")
    assert main([*files, *more, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scored = score_answers(
        {image: [truth] for image, (_, truth) in ROWS.items()},
        {image: answer for image, (answer, _) in ROWS.items()},
        resamples=50,
        seed=3,
    )
    assert list(found["metrics"]) == list(scored.metrics)
    assert set(found["metrics"]) == {"exact_match", "f1", "vqa_accuracy", "bertscore_f1", "csns"}
    for name, ends in scored.metrics.items():
        told = found["metrics"][name]
        assert told == {"value": ends.value, "std": ends.std, "low": ends.low, "high": ends.high}
    assert (found["protocol"], found["questions"], found["seed"]) == ("answers", 3, 3)
    assert any("all-MiniLM-L6-v2, layer 6" in note for note in found["notes"])

    assert main([*files, *more]) == 0
    printed = capsys.readouterr()
    head, _, _, *rows = printed.out.splitlines()
    assert head.startswith("3 questions")
    for line, (name, ends) in zip(rows, scored.metrics.items(), strict=True):
        assert line.split()[:3] == [name, f"{ends.value:.4f}", f"{ends.std:.4f}"]
    assert "fewer than 10 answers" in printed.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--protocol", "reported"], "are of captions"),
        (["--metrics", "CIDEr"], "no metric CIDEr"),
        (["--metrics", "vtgs"], "VTGS needs the regions"),
        (["--task", "caption", "--bert-model", "x"], "BERTScore is of answers"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    files: list[str], capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main([*files, *more]) == UNUSABLE
    assert said in capsys.readouterr().err
