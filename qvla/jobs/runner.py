"""Where the runs of jobs compute: here, or at Hugging Face. Queue, store and page are the same.

A runner is a command: the worker starts it with the job's folder, follows it, and takes its output
for the job's log. It ends with code 0 and the adapter in the folder, or with a sentence as the last
line of its log; with `TRY_AGAIN` when nothing is wrong with the job itself.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from qvla.jobs import folder as files
from qvla.jobs.hf import state
from qvla.settings import Settings

Command = Callable[[Path, bool], list[str]]

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
HF_RULE = (
    "Fine-tunes run as Hugging Face Jobs, which the account of HF_TOKEN pays for; their data and "
    "checkpoints go to a private repository of it."
)


class Runner(Protocol):
    """What the worker has to know of a way to run a job."""

    @property
    def uses_device(self) -> bool:
        """Whether runs compute on this machine's device, one at a time."""

    @property
    def cancel_signal(self) -> signal.Signals:
        """What asks a run to end for good; SIGTERM says that its worker goes."""

    def command(self, folder: Path, resume: bool) -> list[str]:
        """The words that start a run, or go on with it."""

    def last_step(self, folder: Path) -> int | None:
        """The step of the checkpoint that a run would go on from; None when there is none."""

    def kept(self, folder: Path) -> str:
        """A sentence on what resuming the job would begin with."""


class LocalRunner:
    """A training process on this machine, which ends with its worker, with a checkpoint."""

    uses_device = True
    cancel_signal = signal.SIGTERM

    def __init__(self, command: Command) -> None:
        self.command = command

    def last_step(self, folder: Path) -> int | None:
        return files.last_step(folder)

    def kept(self, folder: Path) -> str:
        return _from_step(files.last_step(folder))


class HfRunner:
    """A process that starts a Hugging Face Job and follows it (`hf/follow.py`).

    The job goes on when the worker goes, and is found again when the fine-tune is resumed.
    `patience` is how long, in seconds, Hugging Face may be out of reach.
    """

    uses_device = False
    cancel_signal = signal.SIGINT

    def __init__(self, patience: float = 1800.0) -> None:
        self._patience = patience

    def command(self, folder: Path, resume: bool) -> list[str]:
        module = [sys.executable, "-m", "qvla.jobs.hf.follow"]
        return [*module, str(folder), "--patience", str(self._patience)]

    def last_step(self, folder: Path) -> int | None:
        remote = state.read(folder)
        return None if remote is None else remote.step

    def kept(self, folder: Path) -> str:
        remote = state.read(folder)
        if remote is not None and remote.goes_on:
            return "It goes on at Hugging Face: resume it to follow it again."
        return _from_step(self.last_step(folder))


def runner_of(settings: Settings) -> Runner:
    """Where the settings have fine-tunes run."""
    if settings.runner == "hf-jobs":
        return HfRunner()
    return LocalRunner(training_command(settings.device_lock.absolute()))


def rule_of(settings: Settings) -> str:
    """A sentence on what a fine-tune is to everybody else, for those who queue one."""
    from qvla.captioning.sharing import RULE

    return HF_RULE if settings.runner == "hf-jobs" else RULE


def training_command(device_lock: Path) -> Command:
    """The command of a job here: `qvla train`, with the lock of the machine that it is on."""

    def command(folder: Path, resume: bool) -> list[str]:
        train = [sys.executable, "-m", "qvla", "train", "--config", str(folder / files.RECIPE)]
        return [*train, "--device-lock", str(device_lock), *(["--resume"] if resume else [])]

    return command


def _from_step(step: int | None) -> str:
    if step is None:
        return "It has no checkpoint yet, so resuming it begins anew."
    return f"It can be resumed from step {step}."
