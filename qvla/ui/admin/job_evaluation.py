"""The evaluation that was started from a job's view: how far it has come, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.settings import Settings
from qvla.ui import units
from qvla.ui.admin.actions import JobActions
from qvla.ui.admin.job_view import JobView
from qvla.ui.background import TASKS, State
from qvla.ui.measured.evaluations import Evaluation, find_evaluations
from qvla.ui.measuring import render_status
from qvla.ui.panes import VARIANT_TITLES
from qvla.ui.tables import record_folders
from qvla.words import counted

if TYPE_CHECKING:
    from qvla.jobs.service import Jobs

PROTOCOL = "standard"
STOP_SECONDS = 2.0  # that a press on Stop waits for the end


@dataclass(frozen=True)
class _Started:
    number: int = 0  # of the measurement
    job: str = ""
    at: datetime | None = None


class JobEvaluation:
    """One at a time, as all measurements beside the app."""

    def __init__(self, settings: Settings, actions: JobActions, view: JobView) -> None:
        self._settings, self._actions, self._view = settings, actions, view
        self._started = _Started()

    @property
    def outputs(self) -> list[Any]:
        return [self._view.task, self._view.evaluate, self._view.stop]

    def start(self, jobs: Jobs, job_id: str, photos: Any) -> str:
        now = datetime.now(UTC)
        self._started = _Started(self._actions.evaluate(jobs, job_id, photos), job_id, now)
        return ""

    def stop(self, jobs: Jobs, job_id: str) -> str:
        if self._is_of(job_id):
            TASKS.last.cancel()
            TASKS.last.wait(STOP_SECONDS)
        return ""

    def show(self, job_id: str | None) -> dict[Any, Any]:
        """How far the evaluation of this job has come, if the last measurement is that."""
        own = self._is_of(job_id)
        status = TASKS.last.status if own else None
        running = own and not status.over
        html = render_status(TASKS.last.label, status) if own else ""
        if own and status.state is State.DONE and (found := self._result()) is not None:
            html += render_result(found)
        return {
            self._view.task: html,
            self._view.evaluate: gr.Button(visible=not running),
            self._view.stop: gr.Button(visible=running),
        }

    def _is_of(self, job_id: str | None) -> bool:
        task = TASKS.last
        return task is not None and (task.number, job_id) == (
            self._started.number,
            self._started.job,
        )

    def _result(self) -> Evaluation | None:
        """What it has left: the first record of an evaluation since it was started."""
        folder = record_folders(self._settings)[-1]
        found = [
            one
            for one in find_evaluations([folder], lambda _: None)
            if self._started.at is not None and one.record.date >= self._started.at
        ]
        return min(found, key=lambda one: one.record.date, default=None)


def render_result(evaluation: Evaluation) -> str:
    """The scores with their intervals, and the way to the rest."""
    said = []
    for variant in reversed(evaluation.variants):
        score = evaluation.score(PROTOCOL, variant, "CIDEr")
        if score is not None:
            ends = (score.low, score.high)
            between = " to ".join(map(units.score, ends)) if None not in ends else ""
            said.append(
                f"<b>{units.score(score.value)}</b> {escape(VARIANT_TITLES[variant])}"
                + (f" ({between})" if between else "")
            )
    return (
        f'<p class="notice">CIDEr on {counted(evaluation.photos, "photo")}: '
        f'{", ".join(said) or "none"}. <a href="#tab-cider">See it in the CIDEr tab</a>, where it '
        f"is called {escape(evaluation.title)}.</p>"
    )
