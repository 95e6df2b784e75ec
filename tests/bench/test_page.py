"""The suite `page`: what it says and refuses, and, marked slow, a run of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qvla.bench import page
from qvla.bench.arrangements import BenchError
from qvla.records import store as records
from qvla.settings import Settings


def test_the_table_has_a_line_for_each_moment() -> None:
    numbers: dict[str, int | float | None] = {"answers_seconds": 3.125}
    for place, case in enumerate(page.CASES):
        for step, moment in enumerate(page.MOMENTS):
            numbers[f"{case}/{moment}_seconds"] = 10 * place + step + 0.25
    record = records.new_record(
        "bench page",
        model="mini",
        variants=["base"],
        data=None,
        numbers=numbers,
        protocol={"device": "cpu", "browser": "Chromium 1", "repeats": 3},
    )
    told = page.table(record)
    assert "mini on cpu, Chromium 1; medians of 3" in told and "3.12 s after" in told
    [line] = [line for line in told.splitlines() if line.startswith("the first whole caption")]
    assert line.split()[-2:] == ["3.25", "13.25"]


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match="at least 1"):
        page.run(argparse.Namespace(repeats=0), Settings())
    pytest.importorskip("playwright", reason="playwright is not installed")
    monkeypatch.setattr(page.shutil, "which", lambda name: None)
    with pytest.raises(BenchError, match="needs Chromium"):
        page.run(argparse.Namespace(repeats=1), Settings())


@pytest.mark.slow
@pytest.mark.browser
def test_the_suite_from_the_command_line(tmp_path: Path) -> None:
    """In a process of its own: Playwright runs once in one."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    if page.shutil.which("chromium") is None:
        pytest.skip("there is no chromium: install it with `apt-get install chromium`")
    told = ["bench", "--suite", "page", "--repeats", "1", "--records", str(tmp_path), "--json"]
    command = [sys.executable, "-m", "qvla", *told]
    ran = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    numbers = json.loads(ran.stdout)["numbers"]
    for case in page.CASES:
        moments = [numbers[f"{case}/{moment}_seconds"] for moment in page.MOMENTS]
        painted, picked, word, caption = moments
        assert painted > 0 and 0 < picked < word <= caption
