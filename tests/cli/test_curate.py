"""`qvla curate` as a command: what it tells, what it keeps to itself, and what a kill leaves."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from qvla.settings import child_environment
from tests.support.vision_server import (
    EXPECTED,
    Handler,
    Request,
    VisionServer,
    coloured_photos,
    silent,
    vision_server,
)
from tests.support.waiting import until

Run = Callable[..., tuple[int, str, str]]

COLOUR, OTHER = "What is the colour?", 'Is it, say, "red"?'
PLENTY = 1000


def command(server: VisionServer, photos: Path, keys: Path, out: Path) -> list[str]:
    options = ["--endpoint", server.address, "--model", "eyes", "--keys", keys, "--out", out]
    return [str(one) for one in ("curate", photos, "--questions", COLOUR, *options)]


def answers(out: Path) -> dict[str, str]:
    with out.open(newline="", encoding="utf-8") as file:
        return {row["Filename"]: row["Answer"] for row in csv.DictReader(file)}


def test_the_command_tells_what_came_of_it_and_never_a_key(run: Run, tmp_path: Path) -> None:
    photos = coloured_photos(tmp_path / "photos")
    keys, out, more = tmp_path / "keys", tmp_path / "out.csv", tmp_path / "questions"
    keys.write_text("sk-wrong-4711\nsk-right-4712\n")
    more.write_text(f"{OTHER}\n\n  {COLOUR}\n")
    with vision_server(**{"sk-right-4712": 4}) as server:
        arguments = [*command(server, photos, keys, out), "--questions-file", str(more)]
        code, output, told = run(*arguments, "--verbose")
        assert (code, output) == (2, "")
        assert "Key 1 (" in told and "Key 2 (" in told
        assert f"4 answers more, now 4 in {out}." in told
        assert "All API keys are used up or refused" in told
        server.quotas["sk-right-4712"] = PLENTY
        code, output, told_then = run(*arguments)
        assert (code, output) == (0, "")
        assert f"2 answers more, now 6 in {out}." in told_then
    for text in (told, told_then, out.read_text()):
        assert "sk-wrong" not in text and "sk-right" not in text
    assert not list(tmp_path.glob(".*"))


def test_without_questions_or_photos_it_is_one_sentence(run: Run, tmp_path: Path) -> None:
    with vision_server(one=PLENTY) as server:
        (tmp_path / "keys").write_text("one\n")
        arguments = command(server, tmp_path / "photos", tmp_path / "keys", tmp_path / "out.csv")
        code, _, told = run(*arguments)
        assert code == 2 and "There is no folder" in told and "Traceback" not in told
        at = arguments.index("--questions")
        code, _, told = run(*arguments[:at], *arguments[at + 2 :])
        assert code == 2 and told.startswith("There is no question")
        assert server.requests == []


def test_a_killed_run_leaves_whole_rows_and_is_gone_on_with(run: Run, tmp_path: Path) -> None:
    photos = coloured_photos(tmp_path / "photos")
    keys, out = tmp_path / "keys", tmp_path / "out.csv"
    keys.write_text("one\n")
    come = threading.Event()

    def hold(handler: Handler, request: Request) -> None:
        come.set()
        silent(handler, request)

    def answer(handler: Handler, request: Request) -> None:
        handler.answer("grey")

    with vision_server(one=PLENTY) as server:
        server.script[:] = [answer, answer, hold]
        line = [sys.executable, "-m", "qvla", *command(server, photos, keys, out)]
        process = subprocess.Popen(line, env=child_environment(), stderr=subprocess.PIPE)
        until(lambda: come.is_set() or process.poll() is not None)
        os.kill(process.pid, signal.SIGKILL)
        assert b"Traceback" not in process.communicate()[1]
        assert list(answers(out).values()) == ["grey", "grey"]
        code, _, told = run(*command(server, photos, keys, out))
        assert code == 0, told
        assert list(answers(out).values()) == ["grey", "grey", EXPECTED["4c/2, too.jpg"]]
        assert len(server.requests) == 4
