"""Mending what a killed process left undone, at the start of the app and of every worker, and now
and then while a worker runs.

A running job that no process holds the lock of is interrupted, or done when its adapter is there. A
queued job that the queue has lost is put back. A deletion that was cut off is finished.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from qvla.jobs import folder as files
from qvla.jobs import lock, processes
from qvla.jobs.errors import JobError
from qvla.jobs.limits import Limits
from qvla.jobs.places import Places, is_name
from qvla.jobs.queue import JobQueue, QueueError
from qvla.jobs.runner import Runner
from qvla.jobs.store import Job, JobState, Store

log = logging.getLogger(__name__)

KILL_SECONDS = 2.0  # a killed process is gone, and its locks are free, within


class Recovery:
    """Looks again and again; it remembers when it first saw each sign of life."""

    def __init__(
        self, places: Places, store: Store, queue: JobQueue, limits: Limits, runner: Runner
    ) -> None:
        self._places, self._store, self._queue, self._limits = places, store, queue, limits
        self._runner = runner
        self._seen: dict[str, tuple[datetime | None, float]] = {}

    def run(self) -> None:
        """Mends what can be mended now; the rest is left for the next time. Raises StoreError."""
        running = self._store.all(JobState.RUNNING)
        self._seen = {job.id: self._seen[job.id] for job in running if job.id in self._seen}
        for job in running:
            try:
                self.end_if_gone(job)
            except (OSError, JobError) as error:
                log.warning("Job %s cannot be looked at: %s.", job.id, str(error).rstrip("."))
        for job_id in self._store.hidden():
            try:
                erase(str(job_id), self._places, self._store)
            except JobError as error:
                log.warning("%s", error)
        waiting = self._store.all(JobState.QUEUED)
        try:
            names = self._queue.names() if waiting else set()
            for job in reversed(waiting):  # oldest first
                if job.id not in names:
                    self._queue.put(job.id)
        except QueueError as error:
            log.warning("%s Waiting jobs are put back into it when it can be reached.", error)

    def end_if_gone(self, job: Job) -> None:
        """Ends a running job in the store when nobody runs it any more."""
        folder = self._places.folder(job.id)
        seconds = self._silence(job)
        if not processes.is_here(job.worker):
            if seconds > self._limits.stale:
                self._end(job, folder, "Its machine gave no sign of life any more.")
            return
        path = folder / files.LOCK
        folder.mkdir(exist_ok=True)
        held = lock.take(path)
        if held is None and not processes.is_alive(job.worker) and seconds > self._limits.grace:
            # Its worker is gone, and it had time for a checkpoint. Where the system tells no
            # process of its parent's death, this is also the first that it hears of it.
            processes.kill_group(lock.signature(path))
            held = lock.take(path, KILL_SECONDS)
        if held is not None:
            with held:
                self._end(job, folder, "Its worker was gone.")

    def _silence(self, job: Job) -> float:
        """Seconds without a sign of life.

        The last one bears the time of its own machine's clock, which may be ahead of this one's,
        even by years. So what counts as well is how long it has been the same, by the clock here.
        """
        now = time.monotonic()
        last, since = self._seen.get(job.id, (None, now))
        if last != job.heartbeat:
            since = now
        self._seen[job.id] = (job.heartbeat, since)
        told = datetime.now(UTC) - (job.heartbeat or job.created)
        return max(told.total_seconds(), now - since)

    def _end(self, job: Job, folder: Path, why: str) -> None:
        if files.is_complete(folder):
            state, reason = JobState.DONE, ""
        elif job.cancel_requested:
            state, reason = JobState.CANCELLED, f"It was cancelled. {self._runner.kept(folder)}"
        else:
            state, reason = JobState.INTERRUPTED, f"{why} {self._runner.kept(folder)}"
        self._store.finish(job, state, reason, files.last_lines(folder / files.LOG))


def erase(job_id: str, places: Places, store: Store) -> None:
    """Deletes a hidden job's folder, and then the job; JobError when it cannot.

    Several may do so at once. Links within the folder are deleted, what they lead to is not.
    """
    if is_name(job_id):  # what a damaged row has for a name is no folder's
        erase_folder(job_id, places)
    store.erase(job_id)


def erase_folder(job_id: str, places: Places) -> None:
    """Deletes all files of a job that nobody runs."""
    folder = places.folder(job_id)
    # First out of the way of whoever would lay something into it meanwhile, such as a lock.
    doomed = folder.with_name(f".{job_id}.deleted")
    try:
        while folder.exists() or doomed.exists():
            try:
                if folder.exists() and not doomed.exists():
                    os.rename(folder, doomed)
                shutil.rmtree(doomed)
            except FileNotFoundError:  # another process is at it as well
                continue
    except OSError as error:
        raise JobError(
            f"{folder} cannot be deleted ({error.strerror or error}); delete it by hand."
        ) from error
