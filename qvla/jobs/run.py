"""One attempt at a job: its runner's process, from its start to the sentence on how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from qvla.jobs import folder as files
from qvla.jobs.errors import StoreError
from qvla.jobs.limits import Limits
from qvla.jobs.processes import signal_group
from qvla.jobs.runner import TRY_AGAIN, Runner
from qvla.jobs.store import Job, JobState, Store
from qvla.locks import Lock
from qvla.settings import child_environment
from qvla.tuning import events

LOOK_SECONDS = 0.1
# Ended on request, or from outside: nothing that the job itself did wrong.
FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")


@dataclass(frozen=True)
class Ending:
    """How an attempt ended; `state` is None when the job is no longer this worker's to judge."""

    state: JobState | None
    reason: str = ""


class Run:
    """The attempt that `job` is.

    `stops` tells how often the worker has been asked to stop; `meanwhile` is what else it does;
    `runner` says what is started.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        store: Store,
        limits: Limits,
        stops: Callable[[], int],
        meanwhile: Callable[[], None],
        runner: Runner,
    ) -> None:
        self.job, self.folder = job, folder
        self._store, self._limits = store, limits
        self._stops, self._meanwhile = stops, meanwhile
        self._runner = runner
        self._begun = datetime.now(UTC)
        self._cancelled = self._lost = False
        self._log_start = 0

    def go(self, locks: list[Lock]) -> Ending:
        """Runs the job, which holds `locks` for as long as any process of it lives."""
        if files.is_complete(self.folder):  # written just before an earlier worker was killed
            return Ending(JobState.DONE)
        files.write_recipe(self.folder, self.job.recipe)
        step = self._runner.last_step(self.folder)
        with (self.folder / files.LOG).open("ab") as log:
            where = "from the start" if step is None else f"from step {step}"
            log.write(f"Attempt {self.job.attempt}, {where}.\n".encode())
            log.flush()
            self._log_start = log.tell()
            words = self._runner.command(self.folder, step is not None)
            process = _start(words, locks, log.fileno())
        try:
            self._follow(process)
        finally:
            # Not reaped yet, so its number is still its group's.
            signal_group(process.pid, signal.SIGKILL)
            code = process.wait()
        return self._ending(code)

    def log(self) -> str:
        """The last lines of what this attempt said."""
        return files.last_lines(self.folder / files.LOG, start=self._log_start)

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for the end, tells that the job is alive, and ends it when that is wanted."""
        asked: float | None = None
        next_beat, last_beat = 0.0, time.monotonic()
        while not _has_ended(process):
            now = time.monotonic()
            if now >= next_beat and not self._lost:
                next_beat = now + self._limits.heartbeat
                if self._beat():
                    last_beat = now
                elif now - last_beat > self._limits.stale:
                    self._lost = True  # others have given this worker up by now
            if asked is None:
                if self._cancelled or self._lost or self._stops():
                    # Once only: a second SIGTERM would not wait for the checkpoint.
                    wish = self._runner.cancel_signal if self._cancelled else signal.SIGTERM
                    signal_group(process.pid, wish)
                    asked = now
            elif now - asked > self._limits.grace or self._stops() > 1:
                signal_group(process.pid, signal.SIGKILL)
            self._meanwhile()
            time.sleep(LOOK_SECONDS)

    def _beat(self) -> bool:
        """Whether the store could be told that the job is alive."""
        try:
            job = self._store.beat(self.job)
        except StoreError:
            return False
        if job is None:
            self._lost = True
        else:
            self._cancelled = self._cancelled or job.cancel_requested
        return True

    def _ending(self, code: int) -> Ending:
        if code == 0 and files.is_complete(self.folder):
            return Ending(JobState.DONE)
        if self._lost:
            return Ending(None)
        if self._cancelled:
            return Ending(JobState.CANCELLED, f"It was cancelled. {self._kept}")
        if self._stops():
            return Ending(JobState.INTERRUPTED, f"Its worker was stopped. {self._kept}")
        if code == TRY_AGAIN:
            return Ending(JobState.INTERRUPTED, f"{self._last_line()} {self._kept}".strip())
        number = -code if code < 0 else code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else ""
        if name in FROM_OUTSIDE:
            memory = ", perhaps for want of memory" if name == "SIGKILL" else ""
            sentence = f"It was ended from outside ({name}{memory}). {self._kept}"
            return Ending(JobState.INTERRUPTED, sentence)
        if code < 0:
            return Ending(JobState.FAILED, f"It crashed ({name or code}).")
        return Ending(JobState.FAILED, self._complaint() or f"It ended with exit code {code}.")

    def _complaint(self) -> str:
        """The sentence that the run's events end with, or else the last line of its log."""
        rows, _ = events.read(files.events_of(self.folder))
        if rows and rows[-1]["event"] == "end" and events.time_of(rows[-1]) >= self._begun:
            return str(rows[-1].get("text", ""))
        return self._last_line()

    def _last_line(self) -> str:
        lines = [line.strip() for line in self.log().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    @property
    def _kept(self) -> str:
        return self._runner.kept(self.folder)


def _start(command: list[str], locks: list[Lock], log: int) -> subprocess.Popen[bytes]:
    descriptors = [lock.descriptor for lock in locks]
    tie = [sys.executable, "-m", "qvla.jobs.tie", str(os.getpid()), str(descriptors[0])]
    return subprocess.Popen(
        [*tie, *command],
        env=child_environment(
            PYTHONUNBUFFERED="1",  # so that the log's last line is what was said last
            TQDM_DISABLE="1",  # bars of progress, which libraries draw into files too
        ),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=descriptors,
        start_new_session=True,
    )


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; without reaping it where the system knows how."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    return os.waitid(os.P_PID, process.pid, options) is not None
