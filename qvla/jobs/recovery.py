"""Mending what a killed process left undone, at the start of the app and of every worker, and now
and then while a worker runs.

A running job that no process holds the lock of is interrupted, or done when its adapter is there. A
queued job that the queue has lost is put back. A deletion that was cut off is finished.
"""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

from qvla.jobs import folder as files
from qvla.jobs import lock, processes
from qvla.jobs.errors import JobError
from qvla.jobs.limits import Limits
from qvla.jobs.places import Places
from qvla.jobs.queue import JobQueue, QueueError
from qvla.jobs.run import kept
from qvla.jobs.store import Job, JobState, Store

log = logging.getLogger(__name__)

KILL_SECONDS = 2.0  # a killed process is gone, and its locks are free, within


def recover(places: Places, store: Store, queue: JobQueue, limits: Limits) -> None:
    """Mends what can be mended now; the rest is left for the next time."""
    for job in store.all(JobState.RUNNING):
        try:
            end_if_gone(job, places, store, limits)
        except OSError as error:
            log.warning("Job %s cannot be looked at: %s.", job.id, error)
    for job_id in store.hidden():
        try:
            erase(job_id, places, store)
        except JobError as error:
            log.warning("%s", error)
    waiting = store.all(JobState.QUEUED)
    try:
        names = queue.names() if waiting else set()
        for job in reversed(waiting):  # oldest first
            if job.id not in names:
                queue.put(job.id)
    except QueueError as error:
        log.warning("%s Waiting jobs are put back into it when it can be reached.", error)


def erase(job_id: str, places: Places, store: Store) -> None:
    """Deletes a hidden job's folder, and then the job; JobError when it cannot.

    Links within the folder are deleted, what they lead to is not.
    """
    folder = places.folder(job_id)
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise JobError(
            f"{folder} cannot be deleted ({error.strerror or error}); delete it by hand."
        ) from error
    store.erase(job_id)


def end_if_gone(job: Job, places: Places, store: Store, limits: Limits) -> None:
    """Ends a running job in the store when nobody runs it any more."""
    folder = places.folder(job.id)
    silent = datetime.now(UTC) - (job.heartbeat or job.created)
    seconds = silent.total_seconds()
    if not processes.is_here(job.worker):
        if seconds > limits.stale:
            _end(job, folder, store, "Its machine gave no sign of life any more.")
        return
    path = folder / files.LOCK
    folder.mkdir(exist_ok=True)
    held = lock.take(path)
    if held is None and not processes.is_alive(job.worker) and seconds > limits.grace:
        # Its worker is gone, and it had time for a checkpoint. Where the system tells no process of
        # its parent's death, this is also the first that it hears of it.
        processes.kill_group(lock.signature(path))
        held = lock.take(path, KILL_SECONDS)
    if held is not None:
        with held:
            _end(job, folder, store, "Its worker was gone.")


def _end(job: Job, folder: Path, store: Store, why: str) -> None:
    if files.is_complete(folder):
        state, reason = JobState.DONE, ""
    elif job.cancel_requested:
        state, reason = JobState.CANCELLED, f"It was cancelled. {kept(folder)}"
    else:
        state, reason = JobState.INTERRUPTED, f"{why} {kept(folder)}"
    store.finish(job, state, reason, files.last_lines(folder / files.LOG))
