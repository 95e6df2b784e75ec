"""Rows of a run's events that somebody or something has spoilt: each is passed over alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qvla.tuning import events
from qvla.ui.admin import curves
from qvla.ui.admin.job_parts import render_notes, render_samples
from qvla.ui.admin.run_rows import reached

TIME = "2026-11-25T20:00:00.000+00:00"
GOOD = [
    {"event": "start", "time": TIME, "step": 0, "total_steps": 400},
    {"event": "step", "time": TIME, "step": 5, "loss": 1.5, "memory_bytes": 10**9},
    {"event": "evaluation", "time": TIME, "step": 5, "loss": float("nan"), "samples": []},
    {"event": "note", "time": TIME, "text": "Memory ran out."},
]
BAD = {
    "time that is none": {**GOOD[1], "time": "yesterday"},
    "time that is a number": {**GOOD[1], "time": 5},
    "time without a zone": {**GOOD[1], "time": TIME[:19]},
    "no time": {"event": "step", "step": 6, "loss": 1.0},
    "no step": {"event": "step", "time": TIME, "loss": 1.0},
    "a step in words": {**GOOD[1], "step": "six"},
    "a step between two": {**GOOD[1], "step": 5.5},
    "a step out of all bounds": {**GOOD[1], "step": 10**400},
    "no total": {"event": "start", "time": TIME, "step": 0},
    "a loss in words": {**GOOD[1], "loss": "low"},
    "a loss that is a list": {**GOOD[2], "loss": [1]},
    "a text that is none": {**GOOD[3], "text": {}},
    "samples that are none": {**GOOD[2], "samples": "two"},
    "a sample that is none": {**GOOD[2], "samples": [{"image": 5}]},
    "people who said nothing": {
        **GOOD[2],
        "samples": [{"image": "a", "caption": "b", "references": 7}],
    },
    "an event that is none": {**GOOD[1], "event": ["step"]},
    "a list": [1, 2],
}
LINES = {name: json.dumps(row) for name, row in BAD.items()}
LINES["a row nested 100,000 deep"] = "[" * 100_000 + "]" * 100_000
LINES["bytes that are no text"] = "\udcff\udcfe"


@pytest.mark.parametrize("spoilt", LINES)
def test_a_spoilt_row_is_passed_over_alone(spoilt: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = [json.dumps(GOOD[0]), LINES[spoilt], *map(json.dumps, GOOD[1:])]
    path.write_bytes(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    rows, position = events.read(path)
    assert [row["event"] for row in rows] == ["start", "step", "evaluation", "note"]
    assert position == path.stat().st_size
    assert (reached(rows).step, reached(rows).total) == (5, 400)
    for figure in (curves.loss_figure, curves.memory_figure, curves.learning_rate_figure):
        figure(rows, "adapter")
    assert "Memory ran out." in render_notes(rows)
    assert "come when the run begins" in render_samples(rows, "nowhere")


def test_a_file_that_cannot_be_read_has_no_rows(tmp_path: Path) -> None:
    assert events.read(tmp_path) == ([], 0)  # a folder
    assert events.read(tmp_path / "none" / "none", 7) == ([], 7)


def test_how_far_a_run_has_come_counts_its_checkpoints_too() -> None:
    """Not every step is told: `log_steps` may be larger than what lies between checkpoints."""
    rows = [*GOOD[:2], {"event": "checkpoint", "time": TIME, "step": 8}]
    assert (reached(rows).step, reached(rows).total) == (8, 400)
    resumed = {"event": "start", "time": TIME, "step": 8, "total_steps": 400}
    assert reached([*rows, resumed]).step == 8
