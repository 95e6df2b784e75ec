"""The CIDEr tab: scores as measured, their photos, a visitor's own captions, and Table III."""

from __future__ import annotations

from typing import Any

import gradio as gr

from qvla.captioning.loader import LineupLoader
from qvla.captioning.options import model_arguments
from qvla.settings import Settings
from qvla.ui.background import TASKS
from qvla.ui.glossary import term
from qvla.ui.measured import cider_figures
from qvla.ui.measured.against import report_exhibit
from qvla.ui.measured.evaluations import Evaluation, find_evaluations
from qvla.ui.measured.exhibits import Exhibit
from qvla.ui.measured.own_predictions import OwnPredictions
from qvla.ui.measured.photo_browser import EvaluatedPanel
from qvla.ui.measured.scored_photos import PhotoShelf
from qvla.ui.measured.tab import UNMEASURED, notes_html
from qvla.ui.measured.visitors_votes import VotesExhibit
from qvla.ui.measuring import MeasureNow
from qvla.ui.origins import visit_records
from qvla.ui.photo_folder import PhotoFolder
from qvla.ui.tables import render_records

Update = dict[Any, Any]

LIMIT = 24  # photos of a measurement from the page
PREFERRED_SPLIT = "val"
PROTOCOL_CHOICES = (("Standard", "standard"), ("Reported", "reported"))
LEAD = (
    "How close captions come to those that people wrote. The <b>standard</b> "
    f"{term('Protocol', 'protocol')} scores PTB "
    "tokens against all references of a photo; the <b>reported</b> one, the report's own, scores "
    "raw strings against a single reference drawn at random. Their values are not comparable."
)
NOTHING = (
    "No evaluation has been measured yet: only what the report says is shown. Run "
    "<code>python -m qvla evaluate --data RISC --split val</code>."
)
EMPTY = cider_figures.Shown(None, UNMEASURED, None)


class CiderTab:
    """Builds the tab inside an open `gr.Tab` and wires its events."""

    def __init__(self, page: gr.Blocks, settings: Settings, loader: LineupLoader) -> None:
        self.settings = settings
        folders = [PhotoFolder(path) for path in (settings.data, settings.examples) if path]
        self.shelf = PhotoShelf(folders)
        self.measured_on = folders[0]
        with gr.Column(elem_classes="measured-tab", elem_id="cider-tab-content"):
            gr.HTML(f'<h2>CIDEr</h2><p class="lead">{LEAD}</p>', elem_classes="section-title")
            self._lay_out(page)
        self._wire()

    # ---- layout -------------------------------------------------------------------------------

    def _lay_out(self, page: gr.Blocks) -> None:
        with gr.Row(elem_classes="measured-head") as head:
            self.chooser = gr.Dropdown(
                [], label="Evaluation", visible=False, elem_id="cider-evaluation", min_width=280
            )
            self.protocol = gr.Radio(
                PROTOCOL_CHOICES,
                value="standard",
                label="Protocol",
                elem_id="cider-protocol",
                min_width=200,
            )
        self.message = gr.HTML(elem_id="cider-message", label="What is shown")
        with gr.Row(elem_classes="exhibits"):
            self.by_protocol = Exhibit("cider-protocols", "CIDEr")
            self.sources = Exhibit("cider-sources", "By source")
        with gr.Row(elem_classes="exhibits"):
            self.differences = Exhibit("cider-differences", "Do they really differ?")
            self.metrics = Exhibit("cider-metrics", "Other metrics")
        self.votes = VotesExhibit(self.settings)
        self.photos = EvaluatedPanel(self.shelf, self._find)
        self.own = OwnPredictions(self.shelf, self._find, self.photos.shown)
        self.report = report_exhibit("cider")
        gr.HTML("<h3>Records</h3>", elem_classes="section-title")
        self.records = gr.HTML(elem_id="cider-records", label="Records")
        with head:
            self.measure = MeasureNow(
                TASKS,
                self.settings,
                name="cider",
                label="Measure now",
                subject=f"An evaluation of up to {LIMIT} photos",
                command=self.command,
                on_done=self._measured,
                outputs=[*self.outputs, *self.photos.outputs],
            )

    @property
    def exhibits(self) -> tuple[Exhibit, ...]:
        return (self.by_protocol, self.sources, self.differences, self.metrics, self.report)

    @property
    def outputs(self) -> list[Any]:
        parts = [output for exhibit in self.exhibits for output in exhibit.outputs]
        shown = [self.chooser, self.protocol, self.message, self.records]
        return [*shown, *parts, *self.votes.outputs]

    # ---- events -------------------------------------------------------------------------------

    def opened_with(self, tab: gr.Tab) -> None:
        """Fills the tab whenever it is opened; nothing is read before that."""
        self._refresh_on(tab.select, "open")
        self.measure.opened_with(tab)

    def _wire(self) -> None:
        self._refresh_on(self.chooser.input, "choose")
        self.protocol.input(
            self._refresh,
            inputs=[self.chooser, self.protocol],
            outputs=self.outputs,
            show_progress="hidden",
            api_name="cider_protocol",
            api_visibility="undocumented",
        )

    def _refresh_on(self, event: Any, name: str) -> None:
        quiet = {"show_progress": "hidden", "api_visibility": "undocumented"}
        event(
            self._refresh,
            inputs=[self.chooser, self.protocol],
            outputs=self.outputs,
            api_name=f"cider_{name}",
            **quiet,
        ).then(
            self.photos.fill,
            inputs=[self.chooser, self.photos.shown],
            outputs=self.photos.outputs,
            api_name=f"cider_photos_on_{name}",
            **quiet,
        )

    def _measured(self) -> Update:
        """What was measured just now, with its photos, for the visit that measured it."""
        newest = max(self._find(), key=lambda one: one.record.date, default=None)
        stem = newest.stem if newest else ""
        updates = self._refresh(stem, "standard")
        return {**updates, self.protocol: "standard", **self.photos.fill(stem)}

    def _refresh(self, stem: str | None, protocol: str) -> Update:
        evaluations, problems = self._read()
        by_stem = {one.stem: one for one in evaluations}
        evaluation = by_stem.get(stem or "") or (evaluations[0] if evaluations else None)
        notice = "" if evaluation else f'<p class="notice">{NOTHING}</p>'
        return {
            self.chooser: gr.Dropdown(
                choices=[(one.title, one.stem) for one in evaluations],
                value=evaluation.stem if evaluation else None,
                visible=bool(evaluations),
                interactive=len(evaluations) > 1,
            ),
            self.message: notice + notes_html(*problems),
            self.records: render_records([evaluation.kept] if evaluation else []),
            **self._exhibits(evaluation, protocol),
            **self.votes.show(),
        }

    def _exhibits(self, evaluation: Evaluation | None, protocol: str) -> Update:
        shown = [EMPTY] * 4
        if evaluation:
            shown = [
                cider_figures.by_protocol(evaluation),
                cider_figures.by_source(evaluation, protocol),
                cider_figures.differences(evaluation, protocol),
                cider_figures.other_metrics(evaluation, protocol),
            ]
        shown.append(cider_figures.against(evaluation))
        updates: Update = {}
        for exhibit, one in zip(self.exhibits, shown, strict=True):
            updates |= exhibit.show(*one)
        return updates

    def _read(self) -> tuple[list[Evaluation], list[str]]:
        problems: list[str] = []
        return find_evaluations(self.settings, problems.append), problems

    def _find(self) -> list[Evaluation]:
        return self._read()[0]

    # ---- measuring ----------------------------------------------------------------------------

    def command(self) -> list[str]:
        """The command line of a small evaluation of the data, or else of the examples."""
        splits = self.measured_on.splits()
        split = PREFERRED_SPLIT if PREFERRED_SPLIT in splits else splits[0]
        folder = visit_records(self.settings)
        return [
            "evaluate",
            *("--data", str(self.measured_on.folder)),
            *("--split", split),
            *("--limit", str(LIMIT)),
            "--no-meteor",  # it takes longer than all the rest
            *("--records", str(folder)),
            *("--out", str(folder.parent / "evaluations")),
            *model_arguments(self.settings),
        ]
