"""Which process on which machine, told apart from a later one that was given the same number."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LINUX = sys.platform == "linux"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def identity(number: int | None = None) -> str:
    """`host:number:start` of a running process, by default of this one."""
    number = os.getpid() if number is None else number
    found = _look_up(number)
    return f"{socket.gethostname()}:{number}:{found.start if found else ''}"


def is_here(who: str | None) -> bool:
    """Whether the process is, or was, on this machine."""
    return _parts(who)[0] == socket.gethostname()


def is_alive(who: str | None) -> bool:
    """Whether the process runs on this machine now."""
    host, number, start = _parts(who)
    found = _look_up(number) if host == socket.gethostname() and number > 1 else None
    return found is not None and found.start == start and not found.is_zombie


def kill_group(who: str | None) -> None:
    """Kills a leader of a process group and its group, or what is left of it when it is gone.

    A group keeps its number from being given to another process. So where no process has it, the
    group is still the leader's; where another process has it, the group is gone.
    """
    host, number, start = _parts(who)
    if host != socket.gethostname() or number <= 1:
        return
    found = _look_up(number)
    if found is None or found.start == start:
        signal_group(number, signal.SIGKILL)


def signal_group(number: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # the latter: macOS, a group of zombies
        os.killpg(number, what)


def _parts(who: str | None) -> tuple[str, int, str]:
    host, _, rest = (who or "").partition(":")
    number, _, start = rest.partition(":")
    return host, int(number) if number.isdecimal() else 0, start


@dataclass(frozen=True)
class _Found:
    start: str  # when it began
    is_zombie: bool


def _look_up(number: int) -> _Found | None:
    """The process that has a number now; None when none has."""
    if not _LINUX:
        return _look_up_by_psutil(number)
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    # Ticks since the boot: unlike a date, they stay what they are when the clock is set.
    return _Found(f"{_BOOT.read_text()[:8]}-{fields[18]}", state in "ZX")


def _look_up_by_psutil(number: int) -> _Found | None:
    import psutil

    try:
        process = psutil.Process(number)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return _Found(f"{process.create_time():.2f}", zombie)
    except psutil.Error:
        return None
