"""A worker: takes jobs from the queue and runs one at a time, each in a process of its own.

The loop is our own, not huey's consumer. That one takes SIGTERM for itself and then either leaves
its task alone or waits for hours until it is done, and it runs tasks in threads, with whose end
Linux would end a training process too. One job at a time needs neither its pool nor its scheduler.
The training process does the work, so the loop has time to tell the store that the job is alive.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time
from contextlib import ExitStack

from qvla.errors import QvlaError
from qvla.jobs import folder as files
from qvla.jobs import lock, processes
from qvla.jobs.errors import StoreError
from qvla.jobs.limits import Limits
from qvla.jobs.places import places_of
from qvla.jobs.queue import JobQueue, QueueError
from qvla.jobs.recovery import Recovery
from qvla.jobs.run import Ending, Run
from qvla.jobs.runner import Runner, runner_of
from qvla.jobs.store import Job, JobState, Store
from qvla.locks import Lock
from qvla.settings import Settings

log = logging.getLogger(__name__)

LOCK_SECONDS = 1.0  # the app and other workers look at a job's lock for moments only
RETRY_SECONDS = 5.0


class Worker:
    """Works on the jobs that the settings name until it is asked to stop.

    A store or queue that cannot be used is waited for: the app may mend it, or its server come up.
    """

    def __init__(
        self, settings: Settings, limits: Limits | None = None, runner: Runner | None = None
    ) -> None:
        self._limits = limits or Limits()
        self._places = places_of(settings)
        self._runner = runner or runner_of(settings)
        self._name = processes.identity()
        self._stops = 0
        self._next_recovery = 0.0
        self._said = ""

    def stop(self) -> None:
        """Takes no further job and ends the one under way, with a checkpoint; the second time
        without. Safe in a signal handler.
        """
        self._stops += 1

    def run(self, *, once: bool = False) -> None:
        """Runs jobs as they come; with `once`, those that wait now, and then returns."""
        is_open = False
        while not self._stops:
            try:
                if not is_open:
                    self._open()
                    is_open = True
                if not self._work() and once and not self._store.all(JobState.QUEUED):
                    return
                self._said = ""
            except (QueueError, StoreError, OSError) as error:
                is_open = False  # what was damaged may be another file by the next time
                self._warn(error)
                self._pause(RETRY_SECONDS)

    def _open(self) -> None:
        self._store = Store(self._places.database_url)
        self._queue = JobQueue(self._places)
        self._recovery = Recovery(
            self._places, self._store, self._queue, self._limits, self._runner
        )

    def _work(self) -> bool:
        """Runs the next job, if there is one and the device is free; False when it did not."""
        self._recover()
        with ExitStack() as stack:
            devices = self._take_devices(stack) if self._runner.uses_device else []
            free = bool(devices) or not self._runner.uses_device
            if not free:
                log.debug("Another process uses the device.")
            job_id = self._queue.take() if free else None
            if job_id is not None and not self._stops:
                self._run(job_id, devices)
                return True
        self._pause(self._limits.idle)
        return False

    def _run(self, job_id: str, devices: list[Lock]) -> None:
        job = self._store.find(job_id)
        if job is None or job.state is not JobState.QUEUED:
            return  # cancelled, deleted, or in the queue twice
        folder = self._places.folder(job_id)
        try:
            folder.mkdir(exist_ok=True)
            held = lock.take(folder / files.LOCK, LOCK_SECONDS)
        except OSError as error:
            if job := self._store.claim(job_id, self._name):
                reason = f"Its folder {folder} cannot be used ({error.strerror})."
                self._finish(job, Ending(JobState.FAILED, reason), "")
            return
        if held is None:
            return  # a process of an earlier attempt is left; recovery queues the job again
        with held:
            job = self._store.claim(job_id, self._name)
            if job is None:
                return
            log.info("Job %s begins (attempt %d).", job.id, job.attempt)
            asked = (lambda: self._stops, self._recover)
            run = Run(job, folder, self._store, self._limits, *asked, self._runner)
            try:
                ending = run.go([held, *devices])
            except OSError as error:
                ending = Ending(JobState.FAILED, f"It could not be started: {error}.")
            self._finish(job, ending, run.log())

    def _finish(self, job: Job, ending: Ending, said: str) -> None:
        """Tells the store; when that fails for long, recovery finds that nobody holds the lock."""
        if ending.state is None:
            log.warning("Job %s was given to others.", job.id)
            return
        log.info("Job %s: %s. %s", job.id, ending.state.value, ending.reason)
        deadline = time.monotonic() + self._limits.stale
        while True:
            try:
                self._store.finish(job, ending.state, ending.reason, said)
                return
            except StoreError as error:
                if self._stops or time.monotonic() > deadline:
                    raise
                self._warn(error)
                self._pause(RETRY_SECONDS)

    def _recover(self) -> None:
        """Looks, now and then, at what others left undone."""
        if time.monotonic() < self._next_recovery:
            return
        self._next_recovery = time.monotonic() + self._limits.recovery
        try:
            self._recovery.run()
        except StoreError as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        """Once, for as long as it stays the same."""
        sentence = str(error) if isinstance(error, QvlaError) else f"The jobs' folder: {error}."
        if sentence != self._said:
            log.warning("%s Trying again.", sentence)
        self._said = sentence

    def _take_devices(self, stack: ExitStack) -> list[Lock]:
        """The locks of the GPUs that this process sees, all or none: one job at a time on each."""
        folder = self._places.jobs / ".devices"
        folder.mkdir(exist_ok=True)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
        names = sorted({re.sub(r"\W", "_", name.strip()) for name in visible.split(",")})
        taken = []
        for name in names:
            held = lock.take(folder / f"{socket.gethostname()}-{name}.lock")
            if held is None:
                stack.close()
                return []
            taken.append(stack.enter_context(held))
        return taken

    def _pause(self, seconds: float) -> None:
        """Sleeps, and no longer than until it is asked to stop."""
        deadline = time.monotonic() + seconds
        while not self._stops and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))


def work(worker: Worker, *, once: bool = False) -> None:
    """Runs a worker in the main thread: SIGTERM and Ctrl-C stop it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run(once=once)
