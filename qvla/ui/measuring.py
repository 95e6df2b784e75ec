"""The "measure now" button: a measurement beside the page, its progress, and the way to end it.

There is one measurement at a time for the whole app, and every visitor sees the same one, also
after coming back. Only the visit that started it may cancel it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from qvla.errors import QvlaError
from qvla.settings import Settings, on_zerogpu
from qvla.ui.background import State, Status, Task, Tasks

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
SWITCHED_OFF = (
    "Measuring from this page is switched off here, since anybody could start it. Run the app on "
    "a machine of your own, or set QVLA_MEASURE=on."
)
NO_GPU = (
    "There is nothing to measure on here: ZeroGPU lends a GPU to answers alone. Run the app on a "
    "machine or a Space with a GPU of its own."
)
NOT_YOURS = "Only the visit that started this measurement can cancel it."
Updates = dict[Any, Any]


class MeasureNow:
    """The button with its progress, laid out where it is made, and wired to the page.

    `label` is on the button, `subject` says what is measured ("An evaluation of 24 photos") and
    must differ between buttons; `name` is for ids and events. `command` gives the arguments of
    `qvla`. When a measurement of this button is done, `on_done` gives updates for `outputs` to the
    page that started it; other pages must read the records by themselves when they are opened.
    """

    def __init__(
        self,
        tasks: Tasks,
        settings: Settings,
        *,
        name: str,
        label: str,
        subject: str,
        command: Callable[[], Sequence[str]],
        on_done: Callable[[], Mapping[Any, Any]],
        outputs: Sequence[Any],
    ) -> None:
        self.tasks, self.settings, self.subject, self.name = tasks, settings, subject, name
        self.command, self.on_done = command, on_done
        allowed = settings.may_measure
        with gr.Row(elem_classes="measure-now"):
            self.start = gr.Button(
                label, visible=allowed, size="sm", elem_id=f"{name}-measure", min_width=120
            )
            self.cancel = gr.Button(
                "Cancel", visible=False, size="sm", elem_id=f"{name}-cancel", min_width=80
            )
            self.progress = gr.HTML(
                "" if allowed else _switched_off(),
                elem_id=f"{name}-measuring",
                label="Measurement",
            )
        self.timer = gr.Timer(POLL_SECONDS, active=False)
        # The number of the last task whose end this page has taken in, none while nobody has
        # looked at this tab.
        self.seen = gr.State(None)
        self._wire(list(outputs))

    def _wire(self, outputs: list[Any]) -> None:
        own = [self.start, self.cancel, self.progress, self.timer]
        quiet = {"show_progress": "hidden", "api_visibility": "undocumented", "queue": False}
        self.timer.tick(
            self._tick,
            inputs=[self.seen],
            outputs=[*own, self.seen, *outputs],
            api_name=f"{self.name}_measuring",
            **quiet,
        )
        self.start.click(self._start, outputs=own, api_name=f"{self.name}_measure", **quiet)
        self.cancel.click(self._cancel, outputs=own, api_name=f"{self.name}_cancel", **quiet)

    # ---- events -------------------------------------------------------------------------------

    def opened_with(self, tab: gr.Tab) -> None:
        """Shows what is being measured whenever the tab is opened, however long after the page."""
        tab.select(
            self._look,
            inputs=[self.seen],
            outputs=[self.start, self.cancel, self.progress, self.timer, self.seen],
            api_name=f"{self.name}_measuring_on_open",
            show_progress="hidden",
            api_visibility="undocumented",
            queue=False,
        )

    def _look(self, seen: int | None, request: gr.Request) -> Updates:
        task = self.tasks.last
        if seen is None:
            seen = task.number if task is not None and task.status.over else 0
        return {**self._show(request), self.seen: seen}

    def _tick(self, seen: int | None, request: gr.Request) -> Updates:
        task = self.tasks.last
        updates = {**self._show(request), self.seen: seen}
        if task is not None and task.status.over and task.number != seen:
            updates[self.seen] = task.number
            own = task.label == self.subject and _owns(request, task)
            if own and task.status.state is State.DONE:
                updates |= self.on_done()
        return updates

    def _start(self, request: gr.Request) -> Updates:
        if not self.settings.may_measure:
            return {self.progress: _switched_off()}
        try:
            self.tasks.start(self.command(), self.subject, request.session_hash or "")
        except QvlaError as error:
            running = self._show(request)
            return {**running, self.progress: _sentence("failed", str(error))}
        except OSError as error:
            log.exception("A measurement could not be started.")
            sentence = f"The measurement could not be started: {error.strerror}."
            return {self.progress: _sentence("failed", sentence)}
        return self._show(request)

    def _cancel(self, request: gr.Request) -> Updates:
        task = self.tasks.last
        if task is not None and not task.status.over:
            if not _owns(request, task):
                return {**self._show(request), self.progress: _sentence("failed", NOT_YOURS)}
            task.cancel()
            task.wait(POLL_SECONDS)
        return self._show(request)

    def _show(self, request: gr.Request) -> Updates:
        """The state of the app's one measurement, on whichever tab."""
        task = self.tasks.last
        running = task is not None and not task.status.over
        allowed = self.settings.may_measure
        html = "" if allowed else _switched_off()
        if running or (task is not None and task.label == self.subject):
            html = render_status(task.label, task.status)
        return {
            self.start: gr.Button(visible=allowed, interactive=not running),
            self.cancel: gr.Button(visible=running and _owns(request, task)),
            self.progress: html,
            self.timer: gr.Timer(active=running),
        }


def render_status(subject: str, status: Status) -> str:
    """What is measured and how far that has come, or how it ended."""
    if status.state is State.DONE:
        return _sentence("done", f"{subject}: done. {status.message}".strip())
    if status.state is State.CANCELLED:
        return _sentence("cancelled", f"{subject}: cancelled.")
    if status.state is State.FAILED:
        return _sentence("failed", f"{subject} failed: {status.message}")
    between = status.done < status.total or not status.total  # at the end it only names files
    doing = (between and status.message) or status.what or "starting"
    share = min(status.done / status.total, 1.0) if status.total else 0.0
    count = f"{status.done:,} of {status.total:,}" if doing == status.what else ""
    return (
        '<div class="measuring" data-state="running">'
        f"<p><b>{escape(subject)}:</b> {escape(doing)} <span>{count}</span></p>"
        f'<i class="bar" role="progressbar" aria-label="{escape(subject)}" aria-valuemin="0" '
        f'aria-valuemax="{status.total}" aria-valuenow="{status.done}" '
        f'style="--share:{share:.3f}"></i></div>'
    )


def _switched_off() -> str:
    return _sentence("off", NO_GPU if on_zerogpu() else SWITCHED_OFF)


def _sentence(state: str, text: str) -> str:
    return f'<div class="measuring" data-state="{state}"><p role="status">{escape(text)}</p></div>'


def _owns(request: gr.Request, task: Task) -> bool:
    return bool(task.owner) and task.owner == request.session_hash
