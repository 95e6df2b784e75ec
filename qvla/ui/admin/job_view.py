"""One job: what it is, what can be done with it, its curves, captions, notes and log."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.errors import QvlaError
from qvla.jobs.publishing import pane_of, pane_title, shown_name
from qvla.methods.command import command_line
from qvla.methods.recipe import make_recipe
from qvla.methods.registry import makes_model
from qvla.ui.admin import curves
from qvla.ui.admin.job_parts import render_head, render_log, render_notes, render_samples
from qvla.ui.admin.labels import JobLabels
from qvla.ui.admin.run_rows import RunRows

if TYPE_CHECKING:
    from qvla.jobs.service import Jobs
    from qvla.jobs.store import Job

Updates = dict[Any, Any]
Seen = tuple[Any, ...]

RESUMABLE = ("failed", "cancelled", "interrupted")

QUESTIONS = {
    "delete": "Delete this job with its adapter, checkpoints and log?",
    "publish": "Have this adapter answer in place of the one that the pane has now? A pane of its "
    "own leaves that as it is.",
}


class JobView:
    """Lays the view out where it is made. `seen` tells which figures the page shows already."""

    def __init__(self, *, has_bank: bool) -> None:
        self.has_bank = has_bank
        self.seen = gr.State(())
        self.said_of = gr.State(())  # the moment of a job that the message is about
        with gr.Column(visible=False, elem_id="job-view", elem_classes="job-view") as self.frame:
            self.head = gr.HTML(elem_id="job-head", label="Job")
            with gr.Row(elem_classes="job-actions"):
                self.cancel = _button("Cancel", "job-cancel")
                self.resume = _button("Resume", "job-resume")
                self.publish = _button("Publish", "job-publish", variant="primary")
                self.add_pane = _button("Add as a pane", "job-add-pane")
                self.add_to_bank = _button("Add to the bank", "job-add-to-bank")
                self.take_back = _button("Take back", "job-take-back")
                self.download = _button("Download", "job-download")
                self.duplicate = _button("Duplicate", "job-duplicate")
                self.delete = _button("Delete", "job-delete")
            # Out of sight by the style sheet: holds the file that the button above asked for.
            self.file = gr.DownloadButton("File", elem_id="job-file")
            with gr.Row(visible=False, elem_classes="job-sure") as self.sure:
                self.question = gr.HTML(elem_id="job-question", label="Question")
                self.delete_it = _button("Delete for good", "job-delete-it", variant="stop")
                self.publish_it = _button("Replace it", "job-publish-it", variant="primary")
                self.keep_it = _button("Keep", "job-keep-it")
            self.message = gr.HTML(elem_id="job-message", label="What was done")
            self.labels = JobLabels()
            with gr.Row(visible=False, elem_classes="job-finished") as self.finished:
                with gr.Row():
                    self.photos = gr.Number(
                        100,
                        precision=0,
                        minimum=0,
                        label="Photos to evaluate",
                        info="of the evaluation split; 0: all",
                        elem_id="job-photos",
                        min_width=140,
                    )
                    self.evaluate = _button("Evaluate", "job-evaluate")
                    self.stop = _button("Stop", "job-stop-evaluation")
                with gr.Row():
                    self.repository = gr.Textbox(
                        "",
                        label="Hub repository",
                        info="owner/name; it gets a model card",
                        max_lines=1,
                        max_length=200,
                        elem_id="job-repository",
                        min_width=160,
                    )
                    self.private = gr.Checkbox(
                        True, label="Private", elem_id="job-private", min_width=80
                    )
                    self.push = _button("Push", "job-push")
            self.task = gr.HTML(elem_id="job-task", label="Evaluation")
            with gr.Row(elem_classes="job-curves"):
                self.loss = _plot("Loss", "job-loss")
                self.memory = _plot("Memory over time", "job-memory")
                self.rate = _plot("Learning rate", "job-rate")
            with gr.Row(elem_classes="job-told"):
                with gr.Column(min_width=300):
                    gr.HTML("<h3>Sample captions</h3>", elem_classes="section-title")
                    self.samples = gr.HTML(elem_id="job-samples", label="Sample captions")
                with gr.Column(min_width=300):
                    gr.HTML("<h3>Log</h3>", elem_classes="section-title")
                    self.notes = gr.HTML(elem_id="job-notes", label="Notes")
                    self.log = gr.HTML(elem_id="job-log", label="Log")
            self.recipe = gr.HTML(elem_id="job-recipe", label="Recipe")

    @property
    def outputs(self) -> list[Any]:
        shown = [self.frame, self.head, self.finished, self.samples, self.notes, self.log]
        buttons = [
            self.cancel,
            self.resume,
            self.publish,
            self.add_pane,
            self.add_to_bank,
            self.take_back,
            self.delete,
        ]
        plots = [self.loss, self.memory, self.rate]
        sure = [self.question, self.delete_it, self.publish_it]
        return [
            *(*shown, *buttons, *sure, self.download, self.duplicate, *plots, self.recipe),
            *(self.seen, *self.labels.outputs),
        ]

    def ask(self, what: str) -> Updates:
        """Asks before what cannot be undone, `delete`, or takes another's place, `publish`."""
        return {
            self.sure: gr.Row(visible=True),
            self.question: f"<p>{QUESTIONS[what]}</p>",
            self.delete_it: gr.Button(visible=what == "delete"),
            self.publish_it: gr.Button(visible=what == "publish"),
        }

    def show(
        self, jobs: Jobs, rows: RunRows, job: Job, panes: Mapping[str, str], seen: Seen = ()
    ) -> Updates:
        """`panes` are those in which jobs' adapters answer. Figures that were `seen` are kept."""
        said = rows.of(job.id)
        now = (job.id, job.attempt, len(said))
        state, method = job.state.value, job.method
        updates: Updates = {
            self.frame: gr.Column(visible=True),
            self.head: render_head(job, said),
            self.notes: render_notes(said),
            self.log: render_log(jobs.log_tail(job.id)),
            self.seen: now,
            **self._buttons(job, state, method, panes.get(job.id)),
        }
        if tuple(seen)[:1] != now[:1]:
            updates |= self.labels.show(job)
        if tuple(seen) != now:
            variant = pane_of(method) or "base"  # whose colour it has
            updates[self.samples] = render_samples(said, job.data)
            updates[self.recipe] = _recipe(job)
            for plot, make in (
                (self.loss, curves.loss_figure),
                (self.memory, curves.memory_figure),
                (self.rate, curves.learning_rate_figure),
            ):
                figure = make(said, variant)
                updates[plot] = gr.Plot(value=figure, visible=figure is not None)
        return updates

    def say(self, message: str, of: Job | None = None) -> Updates:
        """A message on a job as it is now."""
        return {self.message: message, self.said_of: _moment_of(of) if of and message else ()}

    def still_holds(self, job: Job, said_of: Any) -> bool:
        """Whether a job is as it was when the message was said: "queued" is no news of one that
        runs.
        """
        return tuple(said_of) == _moment_of(job)

    def hide(self) -> Updates:
        """Nothing of any job is left on the page."""
        empty = (self.head, self.notes, self.log, self.samples, self.recipe)
        return {
            self.frame: gr.Column(visible=False),
            **dict.fromkeys(empty, ""),
            **{
                plot: gr.Plot(value=None, visible=False)
                for plot in (self.loss, self.memory, self.rate)
            },
            self.seen: (),
            **self.labels.hide(),
        }

    def _buttons(self, job: Job, state: str, method: str, pane: str | None) -> Updates:
        done, over = state == "done", state not in ("queued", "running")
        own = pane_of(method)
        can_publish = done and own is not None and pane is None
        return {
            self.cancel: gr.Button(visible=not over and not job.cancel_requested),
            self.resume: gr.Button(visible=state in RESUMABLE),
            self.publish: gr.Button(f"Publish in the {pane_title(own or '')}", visible=can_publish),
            self.add_pane: gr.Button(visible=can_publish),
            self.add_to_bank: gr.Button(visible=can_publish and self.has_bank),
            self.take_back: gr.Button(visible=pane is not None),
            self.download: gr.Button(visible=done),
            self.duplicate: gr.Button(visible=bool(job.recipe)),
            self.delete: gr.Button(visible=over and pane is None),
            self.finished: gr.Row(visible=done),
        }


def _moment_of(job: Job) -> Seen:
    return job.id, job.state.value, job.attempt, job.cancel_requested


def full_model_note(jobs: Jobs, job_id: str) -> str:
    """How a finished full fine-tune is served; empty for any other job. Raises QvlaError."""
    folder = jobs.adapter(job_id)
    if folder is None or not makes_model(jobs.get(job_id).method):
        return ""
    return (
        '<p class="notice">All weights were trained, so this is a model of its own and goes into '
        f"no pane. Serve it: <code>QVLA_MODEL={escape(str(folder))} python -m qvla serve</code></p>"
    )


def _recipe(job: Job) -> str:
    """The command line that does the same; of a recipe of another release, its values."""
    try:
        text = command_line(make_recipe(**job.recipe))
    except QvlaError:
        text = "\n".join(f"{name}: {value}" for name, value in job.recipe.items())
    return (
        f"<details class='command'><summary>Recipe of {escape(shown_name(job.id))}</summary>"
        f'<pre tabindex="0"><code>{escape(text)}</code></pre></details>'
    )


def _button(label: str, name: str, variant: str = "secondary") -> gr.Button:
    return gr.Button(label, variant=variant, size="sm", elem_id=name, min_width=90)


def _plot(title: str, name: str) -> gr.Plot:
    return gr.Plot(label=title, visible=False, elem_id=name, min_width=280, container=False)
