"""Jobs that are done: really trained, but in this process, which has everything imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qvla.jobs.places import places_of
from qvla.jobs.service import Jobs
from qvla.jobs.store import Job, JobState, Store
from qvla.methods.recipe import Recipe, make_recipe
from qvla.settings import Settings


def tiny_recipe(settings: Settings, **values: Any) -> Recipe:
    """A few steps that change what a tiny model says."""
    usual = {
        "model": settings.model,
        "data": settings.data,
        "output": settings.jobs / "new",
        "device": "cpu",
        "bf16": False,
        "max_steps": 4,
        "batch_size": 2,
        "learning_rate": 0.05,
        "log_steps": 1,
        "eval_steps": 2,
    }
    return make_recipe(**{**usual, **values})


def finished_job(settings: Settings, jobs: Jobs, recipe: Recipe, owner: str = "tester") -> Job:
    """Queues the recipe, trains it here and tells the store, as a worker would."""
    from qvla.tuning.training import train

    job = jobs.submit(recipe, owner)
    store = Store(places_of(settings).database_url)
    claimed = store.claim(job.id, "here:1:1")
    train(make_recipe(**claimed.recipe))
    assert store.finish(claimed, JobState.DONE, log="It said one thing.")
    store.close()
    (Path(jobs.folder(job.id)) / "log.txt").write_text("It said one thing.\n", encoding="utf-8")
    return jobs.get(job.id)
