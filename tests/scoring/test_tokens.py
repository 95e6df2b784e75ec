"""Which tokeniser is used, and Java programs that fail or do not answer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from qvla.scoring import ScoringError, forget, java, score
from qvla.scoring.tokens import tokenize
from tests.support.ptb_tokens import EXPECTED

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java here")


@pytest.fixture(autouse=True)
def _forget() -> None:
    forget()


def put_java(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@needs_java
def test_java_is_taken_where_it_is() -> None:
    lines, used = tokenize(list(EXPECTED))
    assert used == "java"
    assert dict(zip(EXPECTED, lines, strict=True)) == EXPECTED
    assert tokenize(list(EXPECTED), "java") == (lines, "java")
    assert tokenize(list(EXPECTED), "python") == (lines, "python")


@needs_java
def test_line_ends_inside_a_caption_do_not_shift_the_others() -> None:
    captions = ["one\nquay", "two\r\nboats", "three\x0csheds", "", "four\u2028cars .", "five"]
    lines, _ = tokenize(captions, "java")
    assert lines == ["one quay", "two boats", "three sheds", "", "four cars", "five"]
    assert tokenize(captions, "python")[0] == lines


@needs_java
def test_java_reads_utf_8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "POSIX")
    assert tokenize(["Café Zürich"], "java") == (["café zürich"], "java")


def test_captions_are_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_java(tmp_path, f"echo run >> '{tmp_path}/runs'; cat", monkeypatch)
    assert tokenize(["b a", "c", "c"]) == (["b a", "c", "c"], "java")
    assert tokenize(["c", "b a"]) == (["c", "b a"], "java")
    assert tokenize(["c", "d"]) == (["c", "d"], "java")
    assert (tmp_path / "runs").read_text().count("run") == 2


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo No class >&2; exit 3", "ended with code 3: No class"),
        ("cat; echo one more", "gave 2 lines for 1 captions"),
        ("cat > /dev/null", "gave 1 lines for 2 captions"),
        (r"printf '\377\n'", "could not be run"),
    ],
)
def test_a_java_that_fails_is_told_of_and_passed_over(
    script: str,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put_java(tmp_path, script, monkeypatch)
    captions = ["A quay."] if "1 captions" in why else ["A quay.", "Boats!"]
    plain = ["a quay", "boats"][: len(captions)]
    with pytest.raises(ScoringError, match=why) as refusal:
        tokenize(captions, "java")
    assert "\n" not in str(refusal.value)
    assert tokenize(captions) == (plain, "python")
    assert why in caplog.text


def test_a_java_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_java(tmp_path, f"echo $$ > '{tmp_path}/pid'; exec sleep 3600", monkeypatch)
    seconds = 1
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        with pytest.raises(java.JavaError, match=f"did not answer within {seconds} s"):
            java.run(["-version"], tmp_path, ["a line"] * 100_000, float(seconds))
        seconds *= 2  # for a machine so busy that it had not begun
    with pytest.raises(ProcessLookupError):  # neither running nor a zombie
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 1", "ended with code 1"),
        ("cat", "gave no counts"),
        ("echo 1.0 2.0", "did not answer every caption"),
    ],
)
def test_meteor_is_left_out_when_its_program_fails(
    script: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_java(tmp_path, script, monkeypatch)
    scored = score({"a": ["a quay"]}, {"a": "quay"}, tokenizer="python", resamples=1)
    assert "METEOR" not in scored.metrics
    assert len(scored.notes) == 1 and why in scored.notes[0]
    with pytest.raises(ScoringError, match=why):
        score({"a": ["a quay"]}, {"a": "quay"}, tokenizer="python", metrics=["METEOR"])
