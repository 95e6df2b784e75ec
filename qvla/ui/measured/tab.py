"""What the tabs of measured figures share: whose figures to show, measuring now, the records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import gradio as gr

from qvla.captioning.loader import LineupLoader
from qvla.captioning.options import model_arguments
from qvla.settings import Settings
from qvla.ui.background import TASKS
from qvla.ui.measured.exhibits import Exhibit
from qvla.ui.measured.subjects import Subject, chosen, find_subjects
from qvla.ui.measuring import MeasureNow
from qvla.ui.origins import visit_records
from qvla.ui.tables import render_records

Update = dict[Any, Any]


class MeasuredTab:
    """A subclass names its `whats` (kinds of records), lays out its exhibits and fills them.

    Nothing is read or drawn before the tab is opened, so that the page itself opens at once.
    """

    name = ""  # of the events and elements
    title = ""
    lead = ""
    subject_of_sentence = ""  # "No … has been measured yet."
    suite = ""
    small: tuple[str, ...] = ()  # options that keep "Measure now" to about a minute
    whats: tuple[str, ...] = ()

    def __init__(self, page: gr.Blocks, settings: Settings, loader: LineupLoader) -> None:
        self.settings = settings
        self.loader = loader
        # Rings once when a measurement is done: a state's change would not be noticed, because
        # Gradio passes it on only for events that queue.
        self.bell = gr.Timer(0.1, active=False)
        with gr.Column(elem_classes="measured-tab", elem_id=f"{self.name}-tab-content"):
            gr.HTML(
                f'<h2>{self.title}</h2><p class="lead">{self.lead}</p>',
                elem_classes="section-title",
            )
            with gr.Row(elem_classes="measured-head") as head:
                self.chooser = gr.Dropdown(
                    [],
                    label="Measured",
                    info="model and machine",
                    visible=False,
                    elem_id=f"{self.name}-subject",
                )
            self.message = gr.HTML(elem_id=f"{self.name}-message", label="What is shown")
            self.inputs = self.lay_out()
            gr.HTML("<h3>Records</h3>", elem_classes="section-title")
            self.records = gr.HTML(elem_id=f"{self.name}-records", label="Records")
            with head:
                self.measure = MeasureNow(
                    TASKS,
                    settings,
                    name=self.name,
                    label="Measure now",
                    subject=f"A small measurement of {self.subject_of_sentence}",
                    command=self.command,
                    on_done=lambda: {self.bell: gr.Timer(active=True)},
                    outputs=[self.bell],
                )
        self._wire()

    # ---- for the subclass ---------------------------------------------------------------------

    def lay_out(self) -> Sequence[Any]:
        """Builds the exhibits; returns the components whose values `show` needs besides."""
        raise NotImplementedError

    @property
    def exhibits(self) -> tuple[Exhibit, ...]:
        raise NotImplementedError

    def show(self, subject: Subject | None, *options: Any) -> Update:
        """The updates of all exhibits; without a subject the report's figures alone."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Arguments of `qvla` for a measurement of a minute or so; its record is shown here."""
        folder = str(visit_records(self.settings))
        options = [*self.small, "--records", folder, *model_arguments(self.settings)]
        return ["bench", "--suite", self.suite, *options]

    # ---- events -------------------------------------------------------------------------------

    @property
    def outputs(self) -> list[Any]:
        parts = [output for exhibit in self.exhibits for output in exhibit.outputs]
        return [self.chooser, self.message, self.records, self.bell, *parts]

    def opened_with(self, tab: gr.Tab) -> None:
        """Fills the tab whenever it is opened."""
        self._on(tab.select, "open")
        self.measure.opened_with(tab)

    def _wire(self) -> None:
        self._on(self.chooser.input, "choose")
        for number, control in enumerate(self.inputs):
            self._on(control.input, f"set_{number}")
        self._on(self.bell.tick, "show_newest", keep=False)

    def _on(self, event: Any, name: str, keep: bool = True) -> None:
        event(
            self._refresh if keep else self._show_newest,
            inputs=[self.chooser, *self.inputs] if keep else [*self.inputs],
            outputs=self.outputs,
            show_progress="hidden",
            api_name=f"{self.name}_{name}",
            api_visibility="undocumented",
        )

    def _show_newest(self, *options: Any) -> Update:
        """What was measured just now, whatever was chosen before, to who measured it."""
        subjects, _ = find_subjects(self.settings, self.whats)
        newest = max(subjects, key=lambda one: one.kept[0].record.date, default=None)
        name = newest.name if newest else None
        return {**self._refresh(name, *options), self.bell: gr.Timer(active=False)}

    def _refresh(self, name: str | None, *options: Any) -> Update:
        subjects, problems = find_subjects(self.settings, self.whats)
        subject = chosen(subjects, name)
        return {
            self.chooser: gr.Dropdown(
                choices=[one.name for one in subjects],
                value=subject.name if subject else None,
                visible=bool(subjects),
                interactive=len(subjects) > 1,
            ),
            self.message: self._message(subject) + notes_html(*problems),
            self.records: render_records(subject.kept if subject else ()),
            **self.show(subject, *options),
        }

    def _message(self, subject: Subject | None) -> str:
        if subject is not None and subject.model != self.settings.model_name:
            return (
                f'<p class="notice">These figures are of {escape(subject.model)}; '
                f"{escape(self.settings.model_name)} is what runs here.</p>"
            )
        if subject is not None:
            return ""
        return (
            f'<p class="notice">No {self.subject_of_sentence} has been measured yet: only what the '
            "report says is shown. Press “Measure now”, or run <code>python -m qvla bench "
            f"--suite {self.suite}</code>.</p>"
        )


UNMEASURED = '<p class="empty">Not measured yet.</p>'


def notes_html(*sentences: str, html: Iterable[str] = ()) -> str:
    """Notes below a figure. Those of `html` are taken as they are."""
    items = [*map(escape, sentences), *html]
    if not items:
        return ""
    return f'<ul class="notes">{"".join(f"<li>{item}</li>" for item in items)}</ul>'
