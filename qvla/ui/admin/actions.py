"""What an admin does with a job: the work behind the buttons of its view, in one sentence each."""

from __future__ import annotations

import secrets
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradio.utils import get_upload_folder

from qvla.captioning.contenders import TITLES
from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.jobs import publishing
from qvla.jobs.publishing import PublishingError, pane_of, pane_title, shown_name
from qvla.settings import Settings
from qvla.ui.background import Tasks
from qvla.ui.origins import job_records

if TYPE_CHECKING:
    from qvla.jobs.service import Jobs

LARGEST_DOWNLOAD = 2 * 2**30  # bytes: a page is not the way to fetch more
EVALUATION = "An evaluation of a fine-tuned model"  # every visitor reads it: no names of jobs
LOADING = "The weights are not loaded yet: try again once the page says that they are."


class JobActions:
    """Every method raises QvlaError where it cannot do what it is asked."""

    def __init__(self, settings: Settings, loader: LineupLoader, tasks: Tasks) -> None:
        self.settings, self.loader, self.tasks = settings, loader, tasks

    def cancel(self, jobs: Jobs, job_id: str) -> str:
        job = jobs.cancel(job_id)
        if job.state.value == "cancelled":
            return "The job is cancelled."
        return "The job ends with a checkpoint, once its step is done."

    def resume(self, jobs: Jobs, job_id: str) -> str:
        jobs.resume(job_id)
        return "The job is queued again; it goes on from its last checkpoint, if it has one."

    def label(self, jobs: Jobs, job_id: str, name: object, note: object) -> str:
        jobs.label(job_id, name, note)
        return "The name and the note are kept."

    def recipe_of(self, jobs: Jobs, job_id: str) -> dict[str, Any]:
        """The recipe that a job was queued with, for another like it."""
        job = jobs.get(job_id)
        if not job.recipe:
            raise QvlaError("The job cannot be read, so there is no recipe to take from it.")
        return job.recipe

    def delete(self, jobs: Jobs, job_id: str) -> str:
        if job_id in panes_of(self.settings):
            raise PublishingError("This adapter answers in a pane: take it back first.")
        jobs.delete(job_id)
        return f"{shown_name(job_id).capitalize()} is deleted."

    def publish(self, jobs: Jobs, job_id: str) -> str:
        pane = self._published(publishing.publish, jobs, job_id)
        return f"The {pane_title(pane)} answers with this adapter now."

    def add_pane(self, jobs: Jobs, job_id: str) -> str:
        self._published(publishing.add_pane, jobs, job_id)
        return "This adapter has a pane of its own now, which visitors can choose."

    def add_to_bank(self, jobs: Jobs, job_id: str) -> str:
        task = self._published(publishing.add_to_bank, jobs, job_id)
        return f"The bank has this adapter as the task {task} now."

    def _published(self, publish: Callable[..., str], jobs: Jobs, job_id: str) -> str:
        folder = _done(jobs, job_id)
        if self.loader.lineup is None:
            raise PublishingError(LOADING)
        recipe = jobs.get(job_id).recipe
        return publish(self.settings, self.loader.lineup, job_id, recipe, folder)

    def take_back(self, jobs: Jobs, job_id: str) -> str:
        pane = panes_of(self.settings).get(job_id)
        if pane is None:
            raise PublishingError("This adapter answers in no pane.")
        if self.loader.lineup is None:
            raise PublishingError(
                "The weights are still loading: take it back when they are there."
            )
        publishing.take_back(self.settings, self.loader.lineup, pane)
        if pane not in TITLES:
            return "Its pane is gone."
        return f"The {pane_title(pane)} answers as the settings say."

    def pack(self, jobs: Jobs, job_id: str) -> str:
        """A zip of the adapter's folder, in Gradio's cache under a name that nobody guesses."""
        folder = _done(jobs, job_id)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        size = sum(file.stat().st_size for file in files)
        if size > LARGEST_DOWNLOAD:
            raise QvlaError(
                f"It has {size / 1e9:.1f} GB, too much for a page: copy {folder} from the machine."
            )
        place = Path(get_upload_folder()) / "jobs" / secrets.token_urlsafe(32)
        place.mkdir(parents=True, mode=0o700)
        path = place / f"{jobs.get(job_id).recipe['method']}-{job_id}.zip"
        with zipfile.ZipFile(path, "w") as packed:  # weights do not get smaller by compressing
            for file in files:
                packed.write(file, file.relative_to(folder).as_posix())
        return str(path)

    def push(self, jobs: Jobs, job_id: str, repository: str, private: bool) -> str:
        from qvla.jobs.push import push

        address = push(_done(jobs, job_id), str(repository or "").strip(), private=private is True)
        return f"It is on the hub now: {address}"

    def evaluate(self, jobs: Jobs, job_id: str, photos: float | None) -> int:
        """Starts it beside the app; the number of the measurement."""
        return self.tasks.start(self.evaluation_command(jobs, job_id, photos), EVALUATION).number

    def evaluation_command(self, jobs: Jobs, job_id: str, photos: float | None) -> list[str]:
        """Arguments of `qvla evaluate`: the base and what was trained, on the evaluation split."""
        folder, recipe = _done(jobs, job_id), jobs.get(job_id).recipe
        limit = photos or 0
        if not isinstance(limit, (int, float)) or limit < 0 or limit != int(limit):
            raise QvlaError("The number of photos must be 0, for all, or more.")
        records = job_records(self.settings, job_id)
        pane = pane_of(recipe["method"])
        option = {"adapter": "--adapter", "qvla": "--nf4-adapter"}
        weights = [option[pane], str(folder)] if pane else []
        return [
            "evaluate",
            *("--data", str(recipe["data"])),
            *("--split", (recipe.get("eval_splits") or recipe["splits"])[0]),
            *(("--source", ",".join(recipe["sources"])) if recipe.get("sources") else ()),
            *(("--limit", str(int(limit))) if limit else ()),
            "--no-meteor",  # it takes longer than all the rest
            *("--variant", f"base,{pane}" if pane else "base"),
            *("--records", str(records)),
            *("--out", str(records.parent / "evaluations")),
            *("--model", str(recipe["model"] if pane else folder)),
            *weights,
            *("--device", self.settings.device, "--precision", self.settings.precision),
        ]


def panes_of(settings: Settings) -> dict[str, str]:
    """The panes in which jobs' adapters were published, by the job's id."""
    return {one.job: pane for pane, one in publishing.published(settings).items()}


def _done(jobs: Jobs, job_id: str) -> Path:
    folder = jobs.adapter(job_id)
    if folder is None:
        raise QvlaError("The job is not done, so it has made nothing yet.")
    return folder
