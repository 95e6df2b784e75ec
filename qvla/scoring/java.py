"""Runs the Java programs that come with pycocoevalcap: text in, text out, and no longer than told.

They are run here and not through that package's own classes, which write into the package's folder
or speak with the program line by line, and wait for ever if it does not answer.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ABSENT = "there is no Java here"


class JavaError(Exception):
    """A Java program could not be run or did not answer; the message says why, in a clause."""


def available() -> bool:
    """Whether there is a `java` command; it may still fail."""
    return shutil.which("java") is not None


def run(arguments: Sequence[str], folder: Path, lines: Sequence[str], seconds: float) -> list[str]:
    """The lines that `java ARGUMENTS` answers, run in a folder, to lines on its standard input.

    Raises JavaError when there is no Java, or it fails, or is not done after so many seconds; it
    has ended in any case.
    """
    command = shutil.which("java")
    if command is None:
        raise JavaError(ABSENT)
    try:
        done = subprocess.run(
            [command, "-Dfile.encoding=UTF-8", *arguments],
            cwd=folder,
            input="".join(f"{line}\n" for line in lines).encode("utf-8", "replace"),
            capture_output=True,
            timeout=seconds,
            check=True,
        )
        return done.stdout.decode("utf-8").removesuffix("\n").split("\n")
    except subprocess.TimeoutExpired as error:
        raise JavaError(f"Java did not answer within {seconds:.0f} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip().splitlines()
        why = f": {said[-1].strip()}" if said else ""
        raise JavaError(f"Java ended with code {error.returncode}{why}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise JavaError(f"Java could not be run: {error}") from error
