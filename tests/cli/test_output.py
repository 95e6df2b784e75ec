"""Results survive a console that lacks their letters, in words and in JSON."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = ["source", "split", "image", *(f"caption_{number}" for number in range(1, 6))]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [["Côte 東京", "val", "plage é 東.jpg", "une plage dorée"]]
        csv.writer(file).writerows([HEADER, *rows])
    return tmp_path


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("action", ["check", "stats"])
def test_no_result_is_lost_to_an_encoding(data: Path, encoding: str, action: str) -> None:
    def output(*more: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "qvla", "data", action, str(data), *more],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        assert result.returncode == (1 if action == "check" else 0), result.stderr
        return result.stdout.decode(encoding)

    words = output()
    escaped = "東".encode(encoding, "backslashreplace").decode(encoding)
    assert escaped in words
    values = json.loads(output("--json"))
    where = values["problems"][0]["image"] if action == "check" else values["groups"][0]["source"]
    assert where == ("plage é 東.jpg" if action == "check" else "Côte 東京")
