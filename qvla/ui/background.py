"""A long measurement beside the app: one `qvla` command at a time, in a process of its own.

`Tasks` starts it and keeps the last one; `Task` tells how far it has come and can end it. The
command leads a process group, so that ending it ends whatever it started too. It reads nothing, but
its standard input is a pipe that only the app holds open: when the app ends, in whatever way, that
pipe closes, and the command ends itself (`qvla.cli.beside_app`; the signal that Linux sends at a
parent's death would not do, because it comes when the thread that started the command ends).
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import BinaryIO

from qvla import progress
from qvla.errors import FAILED_PHOTOS, QvlaError
from qvla.settings import child_environment

GRACE_SECONDS = 5.0  # between the request to end and the end by force
LONGEST_LINE = 2**16

_numbers = count(1)


class BusyError(QvlaError):
    """Something else is being measured; the message says what."""


class State(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Status:
    """One moment of a task. `total` is 0 until the command tells how much there is to do.

    `what` is what is being done to the items. `message` is the command's last line that was not
    progress: while it runs what it is busy with, after a failure the sentence that says why, and
    when it is done a warning if some photos had to be left out.
    """

    state: State
    done: int = 0
    total: int = 0
    what: str = ""
    message: str = ""

    @property
    def over(self) -> bool:
        return self.state is not State.RUNNING


class Task:
    """One `qvla` command. Every method may be called from any thread."""

    def __init__(self, arguments: Sequence[str], label: str = "", owner: str = "") -> None:
        """Starts it. `label` says in words what is measured; `owner` is who may cancel it."""
        self.label, self.owner, self.number = label, owner, next(_numbers)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._status = Status(State.RUNNING)
        self._cancelled = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qvla.cli.beside_app", *arguments],
            env=child_environment(**{progress.VARIABLE: progress.AS_JSON}),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        threading.Thread(target=self._follow, name="background-task", daemon=True).start()

    @property
    def status(self) -> Status:
        with self._lock:
            return self._status

    def wait(self, timeout: float | None = None) -> Status:
        """The status once the command has ended, or after so many seconds."""
        self._over.wait(timeout)
        return self.status

    def cancel(self) -> None:
        """Asks the command and all that it started to end, and after some seconds makes them.

        Returns at once; without effect on a command that has ended.
        """
        with self._lock:
            if self._status.over or self._cancelled:
                return
            self._cancelled = True
            self._status = _replace(self._status, State.RUNNING, "ending it")
            self._signal(terminate=True)
        threading.Thread(target=self._force, name="background-cancel", daemon=True).start()

    def _force(self) -> None:
        if not self._over.wait(GRACE_SECONDS):
            with self._lock:
                if not self._status.over:
                    self._signal(terminate=False)

    def _signal(self, *, terminate: bool) -> None:
        """To the whole group. Under the lock, as reaping is: until then its number is its own."""
        try:
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGTERM if terminate else signal.SIGKILL)
            else:
                self._process.kill()
        except (ProcessLookupError, PermissionError):  # the latter on macOS, of a group of zombies
            pass

    def _follow(self) -> None:
        """Reads what the command says until it ends, then ends whatever it left behind."""
        reader = threading.Thread(target=self._read, args=[self._process.stderr], daemon=True)
        reader.start()
        _wait_without_reaping(self._process)
        with self._lock:
            self._signal(terminate=False)
            code = self._process.wait()
        reader.join(GRACE_SECONDS)  # its last words may still be in the pipe
        self._process.stdin.close()
        with self._lock:
            self._status = self._last(code)
        self._over.set()

    def _read(self, stream: BinaryIO) -> None:
        with stream:
            while line := stream.readline(LONGEST_LINE):
                text = line.decode("utf-8", "replace").strip()
                with self._lock:
                    self._status = _after(self._status, text)

    def _last(self, code: int) -> Status:
        last = self._status
        if self._cancelled:
            return _replace(last, State.CANCELLED, "Cancelled.")
        if code in (0, FAILED_PHOTOS):
            return _replace(last, State.DONE, last.message if code else "")
        if code < 0:
            name = signal.Signals(-code).name
            sentence = f"It was ended from outside ({name}), perhaps for want of memory."
        else:
            sentence = last.message or f"It ended with exit code {code} and said nothing."
        return _replace(last, State.FAILED, sentence)


class Tasks:
    """Room for one running task; keeps the last one for all to see how it ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Task | None = None
        atexit.register(self.close)

    @property
    def last(self) -> Task | None:
        """The task that runs, or else the one that ran last."""
        return self._last

    def start(self, arguments: Sequence[str], label: str = "", owner: str = "") -> Task:
        """Starts `qvla` with these arguments; raises BusyError while another one runs."""
        with self._lock:
            if self._last is not None and not self._last.status.over:
                raise BusyError(
                    f"{self._last.label or 'Something else'} is being measured right now: wait "
                    "until that is done or cancelled."
                )
            self._last = Task(arguments, label, owner)
            return self._last

    def close(self) -> None:
        """Ends what runs, and waits for that."""
        if self._last is not None:
            self._last.cancel()
            self._last.wait(GRACE_SECONDS + 2)


TASKS = Tasks()  # the app's: measurements side by side would spoil each other's figures


def _after(status: Status, line: str) -> Status:
    """The status after one more line of the command's."""
    try:
        said = json.loads(line)
        return Status(
            status.state, int(said["progress"]), int(said["total"]), str(said["what"]), ""
        )
    except (ValueError, TypeError, KeyError):
        return _replace(status, status.state, line or status.message)


def _replace(status: Status, state: State, message: str) -> Status:
    return Status(state, status.done, status.total, status.what, message)


def _wait_without_reaping(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end, but leaves the process its number where the system knows how."""
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()
