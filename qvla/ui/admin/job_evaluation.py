"""The evaluations of a job's adapter: how far the one under way has come, and what came of the last
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.jobs.places import is_name
from qvla.jobs.publishing import shown_name
from qvla.records import store as records
from qvla.settings import Settings
from qvla.ui import units
from qvla.ui.admin.actions import JobActions
from qvla.ui.admin.job_view import JobView
from qvla.ui.background import TASKS
from qvla.ui.measured.evaluations import Evaluation
from qvla.ui.measuring import render_status
from qvla.ui.origins import job_records
from qvla.words import counted

if TYPE_CHECKING:
    from qvla.jobs.service import Jobs

PROTOCOL = "standard"
STOP_SECONDS = 2.0  # that a press on Stop waits for the end


@dataclass(frozen=True)
class _Started:
    number: int = 0  # of the measurement
    job: str = ""


class JobEvaluation:
    """One at a time, as all measurements beside the app."""

    def __init__(self, settings: Settings, actions: JobActions, view: JobView) -> None:
        self._settings, self._actions, self._view = settings, actions, view
        self._started = _Started()

    @property
    def outputs(self) -> list[Any]:
        return [self._view.task, self._view.evaluate, self._view.stop]

    def start(self, jobs: Jobs, job_id: str, photos: Any) -> str:
        self._started = _Started(self._actions.evaluate(jobs, job_id, photos), job_id)
        return ""

    def stop(self, jobs: Jobs, job_id: str) -> str:
        if self._is_of(job_id):
            TASKS.last.cancel()
            TASKS.last.wait(STOP_SECONDS)
        return ""

    def show(self, job_id: str | None) -> dict[Any, Any]:
        """How far the evaluation of this job has come, if the last measurement is that, or else
        the scores of the last one.
        """
        own = self._is_of(job_id)
        status = TASKS.last.status if own else None
        running = own and not status.over
        html = render_status(TASKS.last.label, status) if own else ""
        if job_id and not running and (found := self._last(job_id)) is not None:
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

    def _last(self, job_id: str) -> Evaluation | None:
        """Its records lie in the job's folder."""
        if not is_name(job_id):
            return None
        folder = job_records(self._settings, job_id)
        found = records.find("evaluation", [folder], lambda problem: None)
        return Evaluation(found[-1], shown_name(job_id).capitalize()) if found else None


def render_result(evaluation: Evaluation) -> str:
    """The scores with their intervals, and the way to the rest."""
    said = []
    for variant in reversed(evaluation.variants):
        score = evaluation.score(PROTOCOL, variant, "CIDEr")
        if score is not None:
            ends = (score.low, score.high)
            between = " to ".join(map(units.score, ends)) if None not in ends else ""
            said.append(
                f"<b>{units.score(score.value)}</b> {escape(evaluation.titles[variant])}"
                + (f" ({between})" if between else "")
            )
    return (
        f'<p class="notice">CIDEr on {counted(evaluation.photos, "photo")}: '
        f'{", ".join(said) or "none"}. <a href="#tab-cider">See it in the CIDEr tab</a>, where it '
        f"is called {escape(evaluation.title)}.</p>"
    )
