"""The admin tab: whoever hosts the app queues fine-tunes, watches them and publishes adapters.

Every event is wired by `Gate.on`, so that each handler runs for admins only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.admin.actions import JobActions, panes_of
from qvla.ui.admin.form import JobForm, problem
from qvla.ui.admin.form_events import FormEvents
from qvla.ui.admin.gate import Gate
from qvla.ui.admin.job_evaluation import JobEvaluation
from qvla.ui.admin.job_list import job_list, render_jobs
from qvla.ui.admin.job_view import JobView, full_model_note
from qvla.ui.admin.run_rows import Reached, RunRows, reached
from qvla.ui.admin.scripts import TAKE_FILE, TO_FORM, TO_JOB
from qvla.ui.admin.store_notice import StoreNotice
from qvla.ui.admin.together import CurvesTogether
from qvla.ui.background import TASKS
from qvla.ui.rights import Who

if TYPE_CHECKING:
    from qvla.jobs.service import Jobs
    from qvla.jobs.store import Job

Updates = dict[Any, Any]

POLL_SECONDS = 2.0
LEAD = "Fine-tunes of the base: queued, run one at a time, and published beside the other captions."


class AdminTab:
    """Builds the tab inside an open `gr.Tab` and wires its events."""

    def __init__(self, page: gr.Blocks, settings: Settings, loader: LineupLoader) -> None:
        self.page, self.settings, self.loader = page, settings, loader
        self.actions = JobActions(settings, loader, TASKS)
        self._lock = threading.Lock()
        self._jobs: Jobs | None = None
        self._rows: RunRows | None = None
        with gr.Column(elem_classes="measured-tab admin", elem_id="admin-tab-content"):
            gr.HTML(f'<h2>Admin</h2><p class="lead">{LEAD}</p>', elem_classes="section-title")
            self.gate = Gate(settings)
            with self.gate.inside:
                self._lay_out()
        self.gate.timers.append(self.timer)
        self.events = FormEvents(self.gate, self.form, self.rule, loader)
        self._wire()

    # ---- layout -------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self.notice = StoreNotice(self.settings)
        with gr.Accordion("New fine-tune", open=False, elem_id="job-new") as self.new:
            self.rule = gr.HTML(elem_id="job-rule", label="Sharing the device")
            self.form = JobForm(self.settings, self.jobs)
        with gr.Row(elem_classes="jobs-row"):
            with gr.Column(min_width=300, elem_classes="jobs-column"):
                gr.HTML("<h3>Jobs</h3>", elem_classes="section-title")
                self.list = job_list(elem_id="job-list", label="Jobs")
            with gr.Column(min_width=300, elem_classes="job-column"):
                self.view = JobView(has_bank=self.settings.bank is not None)
                self.evaluation = JobEvaluation(self.settings, self.actions, self.view)
        self.together = CurvesTogether(self.jobs, self._rows_of)
        self.timer = gr.Timer(POLL_SECONDS, active=False)

    @property
    def outputs(self) -> list[Any]:
        """What shows the jobs and the chosen one."""
        view = self.view
        return [
            *(*self.notice.outputs, self.list, self.timer, *view.outputs),
            *(view.message, view.said_of, view.sure, view.file, view.repository),
            *self.evaluation.outputs,
        ]

    # ---- events -------------------------------------------------------------------------------

    def opened_with(self, tab: gr.Tab) -> None:
        """Shows everything whenever the tab is opened; nothing is read before that."""
        self._on_fill(tab.select, "open")

    def _wire(self) -> None:
        gate, view, form = self.gate, self.view, self.form
        signed_in = gate.wire(
            self.page, self._fill, [*self.outputs, *self._form_outputs], self._forget
        )
        self.events.preview_on(form.keep_wanted(gate, signed_in.then).then, "after_sign_in")
        looks = {"queue": False}
        self._on(self.timer.tick, self._look, "look", [view.seen, view.said_of], **looks)
        self._on(self.list.pick, self._pick, "pick", **looks).then(None, js=TO_JOB)
        labels = [view.labels.name, view.labels.note]
        self._on(view.labels.save.click, self._do(self.actions.label), "label", labels)
        copied = gate.on(
            view.duplicate.click,
            self._duplicate,
            name="duplicate",
            inputs=[self.list],
            outputs=[self.new, *form.inputs],
            told_in=view.message,
        )
        self.events.preview_on(copied.then(None, js=TO_FORM).then, "of_copy")
        self._on(view.cancel.click, self._do(self.actions.cancel), "cancel")
        self._on(view.resume.click, self._do(self.actions.resume), "resume")
        self._on(view.delete.click, self._ask("delete"), "ask_to_delete", **looks)
        self._on(view.publish.click, self._ask("publish"), "ask_to_publish", **looks)
        self._on(view.keep_it.click, self._pick, "keep", **looks)
        self._on(view.delete_it.click, self._do(self.actions.delete), "delete")
        self._on(view.publish_it.click, self._do(self.actions.publish), "publish")
        self._on(view.add_pane.click, self._do(self.actions.add_pane), "add_pane")
        self._on(view.add_to_bank.click, self._do(self.actions.add_to_bank), "add_to_bank")
        self._on(view.take_back.click, self._do(self.actions.take_back), "take_back")
        pushed = [view.repository, view.private]
        self._on(view.push.click, self._do(self.actions.push), "push", pushed)
        self._on(view.evaluate.click, self._do(self.evaluation.start), "evaluate", [view.photos])
        self._on(view.stop.click, self._do(self.evaluation.stop), "stop_evaluation")
        self._on(view.download.click, self._download, "download").then(
            None, inputs=[view.file], js=TAKE_FILE
        )
        gate.on(
            form.submit.click,
            self._submit,
            name="submit",
            inputs=form.inputs,
            outputs=[*self.outputs, form.problem, self.new],
        ).then(None, js=TO_JOB)
        self.events.wire()
        self._on(self.notice.button.click, self._set_aside, "set_aside")
        self.together.wire(gate)

    def _on(
        self, event: Any, handler: Any, name: str, inputs: list[Any] | None = None, **options: Any
    ) -> Any:
        """An event of the chosen job, whose id is the handler's first argument after who asks."""
        return self.gate.on(
            event,
            handler,
            name=name,
            inputs=[self.list, *(inputs or ())],
            outputs=self.outputs,
            **options,
        )

    def _on_fill(self, event: Any, name: str) -> None:
        opened = self.gate.on(
            event,
            lambda who, *given: {**self.gate.opened(who), **self._fill(who, *given)},
            name=name,
            inputs=[self.list, self.form.wanted],
            outputs=[*self.outputs, *self._form_outputs],
        )
        self.events.preview_on(opened.then, f"after_{name}")

    @property
    def _form_outputs(self) -> list[Any]:
        form = self.form
        chosen = [form.of["model"], form.of["data"]]
        return [
            self.new,
            form.wanted,
            *chosen,
            form.preview,
            form.problem,
            form.uploaded,
            *(form.methods, form.costs),
            *self.together.outputs,
            self.rule,
        ]

    # ---- jobs ---------------------------------------------------------------------------------

    def jobs(self) -> Jobs:
        """The jobs, opened when an admin first asks. Raises JobError when they cannot be."""
        from qvla.jobs.service import Jobs

        with self._lock:
            if self._jobs is None:
                self._jobs = Jobs(self.settings)
                self._rows = RunRows(self._jobs)
            return self._jobs

    def _rows_of(self) -> RunRows:
        """The rows of the runs of `jobs`, which were opened before."""
        assert self._rows is not None
        return self._rows

    def _reached(self, job: Job) -> Reached:
        if job.state.value == "queued" or self._rows is None:
            return Reached()
        with suppress(QvlaError):  # it was deleted a moment ago
            return reached(self._rows.of(job.id))
        return Reached()

    def _show(self, job_id: Any, seen: Any = (), message: str | None = None) -> Updates:
        """The list, and the chosen job or else the newest. A message is said of that."""
        view = self.view
        try:
            jobs = self.jobs()
            all_jobs = jobs.all()
        except QvlaError as error:
            with self._lock:
                self._jobs = None  # opened anew the next time, when it may have been mended
            return {
                **self.view.hide(),
                **self.notice.show_error(error),
                self.list: gr.HTML(value=None, jobs=""),
            }
        chosen = next((job for job in all_jobs if job.id == job_id), None)
        chosen = chosen or (all_jobs[0] if all_jobs else None)
        panes = panes_of(self.settings)
        rendered = render_jobs(all_jobs, chosen and chosen.id, self._reached, panes)
        updates: Updates = {
            **self.notice.show_standing(),
            self.list: gr.HTML(value=chosen and chosen.id, jobs=rendered),
            **self.evaluation.show(chosen and chosen.id),
        }
        task = TASKS.last
        running = task is not None and not task.status.over
        updates[self.timer] = gr.Timer(active=running or any(not job.over for job in all_jobs))
        if message is not None:
            updates |= view.say(message, chosen)
        try:
            shown = view.show(jobs, self._rows, chosen, panes, seen) if chosen else view.hide()
        except QvlaError:  # it was deleted a moment ago
            shown = view.hide()
        return {**updates, **shown}

    # ---- handlers, all behind the gate ---------------------------------------------------------

    def _fill(self, who: Who, job_id: str | None = None, wanted: str | None = None) -> Updates:
        shown = self._show(job_id)
        try:
            shown |= self.form.choices(wanted)
            has_jobs = bool(self.jobs().all())
        except QvlaError:  # which `shown` has told already
            has_jobs = True
        clean = {**self.view.say(""), self.view.sure: gr.Row(visible=False)}
        return {
            **shown,
            **clean,
            self.form.uploaded: "",
            self.new: gr.Accordion(open=bool(wanted) or not has_jobs),
        }

    def _forget(self) -> Updates:
        view = self.view
        return {
            **view.hide(),
            **self.form.forget(),
            **self.together.forget(),
            **self.notice.show(),
            **view.say(""),
            **dict.fromkeys([self.rule, view.task, view.repository], ""),
            self.list: gr.HTML(value=None, jobs=""),
            view.file: gr.DownloadButton(value=None),
        }

    def _look(self, who: Who, job_id: Any, seen: Any, said_of: Any) -> Updates:
        shown = self._show(job_id, seen or ())
        with suppress(QvlaError):
            if said_of and not self.view.still_holds(self.jobs().get(str(job_id)), said_of):
                shown |= self.view.say("")
        return shown

    def _set_aside(self, who: Who, job_id: Any) -> Updates:
        try:
            said = self.notice.set_aside()
        except QvlaError as error:
            said = str(error)
        with self._lock:
            self._jobs = None
        return {**self._show(None), self.notice.html: _said(said)}

    def _pick(self, who: Who, job_id: Any) -> Updates:
        shown = self._show(job_id, message=self._note(job_id))
        return {**shown, self.view.sure: gr.Row(visible=False)}

    def _note(self, job_id: Any) -> str:
        """What has to be known of a job besides."""
        with suppress(QvlaError):
            return full_model_note(self.jobs(), str(job_id))
        return ""

    def _duplicate(self, who: Who, job_id: Any) -> Updates:
        recipe = self.actions.recipe_of(self.jobs(), str(job_id))
        return {**self.form.fill(recipe), self.new: gr.Accordion(open=True)}

    def _ask(self, what: str) -> Callable[..., Updates]:
        return lambda who, job_id: {**self._show(job_id), **self.view.ask(what)}

    def _do(self, action: Callable[..., str]) -> Callable[..., Updates]:
        """A handler that does this with the chosen job, and says what came of it."""

        def handler(who: Who, job_id: Any, *values: Any) -> Updates:
            try:
                message = _said(action(self.jobs(), str(job_id), *values))
            except QvlaError as error:
                message = problem(str(error))
            return {**self._show(job_id, message=message), self.view.sure: gr.Row(visible=False)}

        return handler

    def _download(self, who: Who, job_id: Any) -> Updates:
        try:
            path = self.actions.pack(self.jobs(), str(job_id))
        except (QvlaError, OSError) as error:
            return {self.view.message: problem(str(error)), self.view.file: gr.DownloadButton(None)}
        return {self.view.file: gr.DownloadButton(value=path), self.view.message: ""}

    def _submit(self, who: Who, *values: Any) -> Updates:
        self.events.wait()
        try:
            recipe = self.form.recipe(*values)
            self.form.check(recipe)
            job = self.jobs().submit(recipe, owner=who.name)
        except QvlaError as error:
            return {self.form.problem: problem(str(error))}
        return {
            **self._show(job.id, message=_said("The fine-tune is queued.")),
            self.form.problem: "",
            self.new: gr.Accordion(open=False),
        }


def _said(sentence: str) -> str:
    return f'<p class="notice" role="status">{escape(sentence)}</p>' if sentence else ""
