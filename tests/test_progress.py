from __future__ import annotations

import json
import sys

import pytest
from tqdm import tqdm

from qvla import progress as module
from qvla.progress import progress


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_program_reads_json_lines_from_the_first_item_to_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QVLA_PROGRESS", "json")
    monkeypatch.setattr(module, "LEAST_GAP", 0.0)
    with progress(6, "Captioning photos", done=2) as bar:
        bar.step()
        bar.step(3)
    output, errors = capsys.readouterr()
    assert output == ""
    assert lines(errors) == [
        {"progress": done, "total": 6, "what": "Captioning photos"} for done in (2, 3, 6)
    ]


def test_lines_do_not_come_faster_than_they_can_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QVLA_PROGRESS", "json")
    monkeypatch.setattr(module, "LEAST_GAP", 3600.0)
    with progress(100, "Counting") as bar:
        for _ in range(100):
            bar.step()
    assert [line["progress"] for line in lines(capsys.readouterr().err)] == [0, 100]


def test_without_a_terminal_there_is_no_bar_and_nothing_else_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("QVLA_PROGRESS", raising=False)
    with progress(3, "Counting") as bar:
        bar.step(3)
    assert bar.done == 3
    assert capsys.readouterr() == ("", "")


def test_a_person_at_a_terminal_sees_a_bar_that_begins_where_the_work_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("QVLA_PROGRESS", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    with progress(8, "Scoring captions", done=5) as bar:
        bar.step(3)
    errors = capsys.readouterr().err
    assert "Scoring captions" in errors
    assert "5/8" in errors and "8/8" in errors


def test_a_fault_ends_the_bar_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVLA_PROGRESS", "json")
    with pytest.raises(ZeroDivisionError), progress(2, "Dividing"):
        raise ZeroDivisionError
