"""The list of fine-tune jobs as HTML: state, progress, time left, method, who, when and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.jobs.publishing import pane_title, shown_name
from qvla.settings import ASSETS
from qvla.ui.admin.run_rows import Reached
from qvla.words import counted

if TYPE_CHECKING:
    from qvla.jobs.store import Job

SCRIPT = (ASSETS / "ui" / "jobs.js").read_text(encoding="utf-8")
NO_JOBS = '<p class="empty">No fine-tune has been queued yet: fill in the form to start one.</p>'


def job_list(**options: Any) -> gr.HTML:
    """Buttons with jobs, from `render_jobs`. Event: `pick`; the value is the chosen job's id."""
    return gr.HTML(
        None,
        jobs="",
        html_template="${jobs}",
        js_on_load=SCRIPT,
        apply_default_css=False,
        **options,
    )


def render_jobs(
    jobs: Sequence[Job],
    chosen: str | None,
    progress: Callable[[Job], Reached],
    panes: Mapping[str, str],
) -> str:
    """`panes` are those in which a job's adapter answers, by the job's id."""
    if not jobs:
        return NO_JOBS
    items = "".join(
        _item(job, job.id == chosen, progress(job), panes.get(job.id, "")) for job in jobs
    )
    return f'<ul class="jobs" aria-label="Fine-tune jobs">{items}</ul>'


def title_of(job: Job) -> str:
    """What people call it, or else method and base: what is trained."""
    if job.name:
        return job.name
    if not job.method:
        return "A job that cannot be read" if job.state.value == "unreadable" else "A fine-tune"
    return f"{job.method} on {Path(job.model).name}"


def state_chip(job: Job) -> str:
    word = "ending" if job.cancel_requested and job.state.value == "running" else job.state.value
    return f'<span class="chip" data-state="{job.state.value}">{word}</span>'


def progress_bar(job: Job, reached: Reached) -> str:
    share = 1.0 if job.state.value == "done" else reached.share
    return (
        f'<i class="bar" role="progressbar" aria-label="Progress of {escape(shown_name(job.id))}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * share:.0f}" '
        f'style="--share:{share:.3f}"></i>'
    )


def progress_words(job: Job, reached: Reached) -> str:
    """Steps and time left of a run that goes on, else what became of it."""
    state = job.state.value
    if state == "queued":
        return "waits for its turn"
    steps = f"step {reached.step:,} of {reached.total:,}" if reached.total else ""
    if state == "running":
        left = f"{duration(reached.seconds_left)} left" if reached.seconds_left else ""
        return " · ".join(filter(None, (steps, left))) or "loading"
    if state == "done":
        ends = (job.started, job.finished)
        spent = (job.finished - job.started).total_seconds() if all(ends) else 0
        return f"{counted(reached.total, 'step')} in {duration(spent)}" if reached.total else "done"
    return " · ".join(filter(None, (steps, job.reason)))


def duration(seconds: float) -> str:
    """In the one or two units that matter."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def moment(when: datetime | None) -> str:
    """As an element whose text the reader's browser could tell in words; UTC here."""
    if when is None:
        return "–"
    return f'<time datetime="{when.isoformat()}">{when:%d %b %Y, %H:%M} UTC</time>'


def _item(job: Job, is_chosen: bool, reached: Reached, pane: str) -> str:
    live = f'<span class="chip" data-state="live">{pane_title(pane)}</span>' if pane else ""
    return (
        f'<li><button type="button" class="job" data-job="{escape(job.id)}" '
        f'data-state="{job.state.value}" '
        f'aria-pressed="{str(is_chosen).lower()}">'
        f"<span class='name'><b>{escape(title_of(job))}</b> {state_chip(job)}{live}</span>"
        f"{progress_bar(job, reached)}"
        f"<span class='words'>{escape(progress_words(job, reached))}</span>"
        f"<span class='facts'>{escape(shown_name(job.id))} · {escape(job.owner or 'somebody')} · "
        f"{moment(job.created)}</span></button></li>"
    )
