"""A job of the hub in `hub_server`: its command as a process on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

# What stands for `uv` in the container's image: everything is installed here already.
UV = """#!/bin/sh
shift
while :; do
  case "$1" in
    --with|--with-requirements|--python) shift 2 ;;
    --*) shift ;;
    *) break ;;
  esac
done
exec "$@"
"""


class HubJob:
    """Runs `asked["command"]`, or the words of `script`, from when it is made."""

    def __init__(
        self, job_id: str, asked: dict[str, Any], folder: Path, script: list[str] | None
    ) -> None:
        self.id, self.asked = job_id, asked
        self.stage, self.message = "RUNNING", None
        self._lines: list[str] = []
        self._changed = threading.Condition()
        programs = folder / "programs"
        programs.mkdir(parents=True)
        (programs / "uv").write_text(UV)
        (programs / "uv").chmod(0o755)
        # As in a container, nothing of this process's own environment is there.
        own = {
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        self._process = subprocess.Popen(
            script or asked["command"],
            env={**own, **asked["environment"], **asked.get("secrets", {})},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def told(self, account: str) -> dict[str, Any]:
        """As the hub tells of a job."""
        return {
            "id": self.id,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "dockerImage": self.asked.get("dockerImage"),
            "command": self.asked["command"],
            "environment": self.asked["environment"],
            "flavor": self.asked["flavor"],
            "status": {"stage": self.stage, "message": self.message},
            "owner": {"id": "1", "name": account, "type": "user"},
        }

    def lines(self) -> Iterator[str]:
        """Of its log, from the first on, until it has ended."""
        at = 0
        while True:
            with self._changed:
                while at >= len(self._lines) and self.stage == "RUNNING":
                    self._changed.wait()
                new, over = self._lines[at:], self.stage != "RUNNING"
            yield from new
            at += len(new)
            if over and not new:
                return

    def end(self, stage: str, message: str | None = None) -> None:
        """Ends it at once, as a time-out or a wish to cancel it does."""
        with self._changed:
            if self.stage == "RUNNING":
                self.stage, self.message = stage, message
            self._changed.notify_all()
        self.kill()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in said:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        code = self._process.wait()
        with self._changed:
            if self.stage == "RUNNING":
                self.stage = "ERROR" if code else "COMPLETED"
                self.message = f"Job failed with exit code: {code}" if code else None
            self._changed.notify_all()
