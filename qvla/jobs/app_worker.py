"""The worker that the app starts beside itself, and that ends with it."""

from __future__ import annotations

import atexit
import logging
import subprocess
import sys
import threading
import time

from qvla.jobs.limits import Limits
from qvla.jobs.places import places_of
from qvla.settings import Settings, child_environment

log = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0  # a worker that lived this long did not fail at its start


def start_worker(settings: Settings) -> AppWorker | None:
    """Starts the worker; None when the settings leave that to others."""
    return None if settings.worker == "off" else AppWorker(settings)


class AppWorker:
    """A worker process, started anew whenever it dies, until `close`.

    Its standard input is a pipe that only this process holds open: when this process ends, in
    whatever way, the pipe closes and the worker stops, with a checkpoint of the job under way.
    """

    def __init__(self, settings: Settings, command: list[str] | None = None) -> None:
        places = places_of(settings)
        self._command = command or [sys.executable, "-m", "qvla", "worker", "--with-parent"]
        self._environment = child_environment(
            QVLA_JOBS=str(places.jobs),
            QVLA_DATABASE_URL=settings.database_url or "",
            QVLA_REDIS_URL=settings.redis_url or "",
            QVLA_RUNNER=settings.runner,
        )
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._process = self._start()
        threading.Thread(target=self._keep, name="job-worker", daemon=True).start()
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self, wait: float | None = None) -> None:
        """Stops the worker, and waits until it has ended the job under way."""
        with self._lock:
            self._closed.set()
            process = self._process
        _close_input(process)
        try:
            process.wait(Limits().grace + 10 if wait is None else wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        atexit.unregister(self.close)

    def _start(self) -> subprocess.Popen[bytes]:
        # In a session of its own, so that Ctrl-C in the app's terminal does not count as well.
        return subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.PIPE, start_new_session=True
        )

    def _keep(self) -> None:
        pause = 1.0
        while True:
            began = time.monotonic()
            code = self._process.wait()
            if time.monotonic() - began > STEADY_SECONDS:
                pause = 1.0
            if self._closed.wait(pause):
                return
            pause = min(2 * pause, LONGEST_PAUSE)
            with self._lock:
                if self._closed.is_set():
                    return
                log.warning("The worker of fine-tune jobs ended (%d) and is started again.", code)
                _close_input(self._process)
                self._process = self._start()


def _close_input(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
