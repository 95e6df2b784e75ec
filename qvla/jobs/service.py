"""What the app, or any other program, does with fine-tune jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvla.jobs import folder as files
from qvla.jobs import lock
from qvla.jobs.errors import FullDiskError, JobError
from qvla.jobs.hf import state
from qvla.jobs.labels import clean_name, clean_note
from qvla.jobs.limits import Limits
from qvla.jobs.places import is_name, new_id, places_of
from qvla.jobs.queue import JobQueue
from qvla.jobs.recovery import Recovery, erase, erase_folder
from qvla.jobs.runner import runner_of
from qvla.jobs.store import Job, JobState, Store
from qvla.settings import Settings
from qvla.tuning import events

if TYPE_CHECKING:
    from qvla.methods.recipe import Recipe


class Jobs:
    """The jobs of the folder, store and queue that the settings name.

    Every method may be called from any thread, and from several processes at once. Every one raises
    StoreError when the store cannot be used; every one that takes a job's name raises JobError for
    a name that is no job's.
    """

    def __init__(self, settings: Settings, limits: Limits | None = None) -> None:
        self._most_waiting = settings.max_waiting_jobs
        self._places = places_of(settings)
        self._store = Store(self._places.database_url)
        self._queue = JobQueue(self._places)
        self._recovery = Recovery(
            self._places, self._store, self._queue, limits or Limits(), runner_of(settings)
        )

    def submit(self, recipe: Recipe, owner: str = "") -> Job:
        """Queues a run of the recipe as it is now, with the job's folder for its output.

        Raises JobError when as many jobs wait as may, and when it cannot be written down.
        """
        job_id = new_id()
        folder = self._places.folder(job_id)
        values = _frozen(recipe, folder)
        # First the store: what it has is never lost, whatever this process still comes to.
        self._store.add(job_id, values, owner, self._most_waiting)
        try:
            with _writing_files():
                files.write_recipe(folder, values)
            self._queue.put(job_id)
        except JobError:
            with suppress(JobError):  # the first error is the one to tell
                if self._store.hide(job_id):
                    erase(job_id, self._places, self._store)
            raise
        return self.get(job_id)

    def all(self) -> list[Job]:
        """Newest first."""
        return self._store.all()

    def get(self, job_id: str) -> Job:
        job = self._store.find(job_id)
        if job is None:
            raise JobError(f"There is no job {job_id!r}; it may have been deleted.")
        return job

    def _readable(self, job_id: str) -> Job:
        job = self.get(job_id)
        if job.state is JobState.UNREADABLE:
            raise JobError(f"{job.reason} All that can be done with it is to delete it.")
        return job

    def cancel(self, job_id: str) -> Job:
        """Ends a job that waits at once, and one that runs within seconds, with a checkpoint.

        Without effect on a job that has ended.
        """
        self._readable(job_id)
        self._store.cancel(job_id)
        job = self.get(job_id)
        if job.state is JobState.RUNNING:  # perhaps its worker is gone and will not hear of it
            with _writing_files():
                self._recovery.end_if_gone(job)
        return self.get(job_id)

    def resume(self, job_id: str) -> Job:
        """Queues a job again that failed, was cancelled or interrupted.

        It goes on from its last checkpoint, or begins anew when it has none.
        """
        self._readable(job_id)
        if not self._store.requeue(job_id, self._most_waiting):
            job = self.get(job_id)
            raise JobError(f"The job is {job.state.value}, so there is nothing to resume.")
        self._queue.put(job_id)
        return self.get(job_id)

    def label(self, job_id: str, name: object, note: object) -> Job:
        """Names a job and keeps a note of it; raises JobError for text that may not be one."""
        self._readable(job_id)
        self._store.label(job_id, clean_name(name), clean_note(note))
        return self.get(job_id)

    def delete(self, job_id: str) -> None:
        """Deletes a job that does not run, with its files and nothing else."""
        job = self.get(job_id)
        with ExitStack() as stack:
            if is_name(job.id):
                stack.enter_context(self._not_running(job))
            idle = job.state is JobState.UNREADABLE
            try:
                hidden = self._store.hide(job.id, idle=idle)
            except FullDiskError:
                # Deleting is how room is made, and the files are where it is taken.
                erase_folder(job.id, self._places)
                hidden = self._store.hide(job.id, idle=idle)
            if not hidden:
                self.get(job_id)  # which says so when somebody else was quicker
                raise JobError("The job runs: cancel it, and delete it when it has ended.")
            erase(job.id, self._places, self._store)

    @contextmanager
    def _not_running(self, job: Job) -> Iterator[None]:
        """Keeps the job from being run. Raises JobError when it runs, or is gone."""
        folder = self._places.folder(job.id)
        if folder.is_symlink():
            raise JobError(f"{folder} is a link to elsewhere, so the job is not deleted.")
        remote = state.read(folder)
        if remote is not None and remote.goes_on:
            raise JobError(
                "The job goes on at Hugging Face: resume it and cancel it, then delete it."
            )
        with _writing_files(), ExitStack() as stack:
            if folder.exists():  # else there is nothing by which it could run
                with suppress(FileNotFoundError):  # deleted this very moment
                    held = lock.take(folder / files.LOCK, wait=1.0)
                    if held is None:
                        self.get(job.id)
                        raise JobError(
                            "The job still runs: cancel it, and delete it when it has ended."
                        )
                    stack.enter_context(held)
            yield

    def folder(self, job_id: str) -> Path:
        """The job's folder; all that the job has written is there."""
        return self._places.folder(self.get(job_id).id)

    def adapter(self, job_id: str) -> Path | None:
        """The folder of what was trained, once the job is done."""
        if self.get(job_id).state is not JobState.DONE:
            return None
        folder = self._places.folder(job_id)
        return folder / files.OUTPUT if files.is_complete(folder) else None

    def log_tail(self, job_id: str, lines: int = files.LINES_KEPT) -> str:
        """The last lines of what the job said, from its file, or from the store without it."""
        job = self.get(job_id)
        kept = "\n".join(job.log.splitlines()[-lines:])
        if not is_name(job.id):
            return kept
        return files.last_lines(self._places.folder(job.id) / files.LOG, lines) or kept

    def events(self, job_id: str, after: int = 0) -> tuple[list[events.Row], int]:
        """The rows of the run's events from a position on, and the position to go on from.

        A run that began anew has a new file; a position beyond its end is taken as its beginning.
        """
        if not is_name(self.get(job_id).id):
            return [], 0
        path = files.events_of(self._places.folder(job_id))
        try:
            is_new = path.stat().st_size < after
        except OSError:
            is_new = True
        return events.read(path, 0 if is_new else after)

    def recover(self) -> None:
        """Finds what killed processes left undone (`recovery.py`); call it when the app starts."""
        self._recovery.run()


@contextmanager
def _writing_files() -> Iterator[None]:
    """What the system has against a file of a job, as a sentence."""
    try:
        yield
    except OSError as error:
        raise JobError(
            f"The folder of jobs cannot be written to ({error.strerror or error})."
        ) from error


def _frozen(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The recipe as JSON values, for a process that runs elsewhere and later."""
    values = recipe.model_dump(mode="json", exclude={"device_lock"})
    values["output"] = str(folder / files.OUTPUT)
    for name in ("data", "model"):
        if Path(values[name]).exists():
            values[name] = str(Path(values[name]).absolute())
    return values
