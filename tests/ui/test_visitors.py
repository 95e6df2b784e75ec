"""What visitors leave on the disk is gone with the app, or with the next one after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qvla.ui.visitors import own_folder, sweep

HOLD = """
import sys
from qvla.ui.visitors import own_folder
folder = own_folder()
(folder / "deep_links").mkdir()
(folder / "deep_links" / "state.json").write_text("a visitor's")
print(folder, flush=True)
sys.stdin.read()
"""


def holder(temporary: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another app, as far as its folder goes."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def test_an_app_that_ends_takes_its_folder_along(tmp_path: Path) -> None:
    process, folder = holder(tmp_path)
    assert (folder / "deep_links" / "state.json").exists()
    process.communicate("", timeout=300)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_app_left_the_next_removes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, left = holder(tmp_path)
    running, kept = holder(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    others = [tmp_path / "gradio", tmp_path / "qvla-visitors-notes", tmp_path / "qvla-random-x"]
    for other in others:
        other.mkdir()
    sweep(tmp_path)
    assert not left.exists() and kept.exists() and all(other.exists() for other in others)
    running.communicate("", timeout=300)


def test_gradio_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradio.utils import get_upload_folder

    monkeypatch.setenv("GRADIO_TEMP_DIR", "elsewhere")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = own_folder()
    assert Path(get_upload_folder()) == own
