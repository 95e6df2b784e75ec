"""What was measured of the contenders' answers: how many were right by type of question, and the
photos.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from qvla.evaluation.answers import MAJORITY, TYPE
from qvla.evaluation.scores import ALL
from qvla.records.store import Kept, Record
from qvla.scoring.answers import ANSWERS
from qvla.settings import Settings
from qvla.ui import units
from qvla.ui.ask.photos import AnsweredPanel
from qvla.ui.ask.question_folder import QuestionFolder
from qvla.ui.contenders import titles_of
from qvla.ui.measured.evaluations import Evaluation, find_evaluations
from qvla.ui.measured.tab import notes_html
from qvla.ui.tables import Cell, hardware_name, render_records, render_table

WHAT = "answers"  # of the records
METRIC = "exact_match"
NONE = (
    '<p class="empty">No evaluation of answers is kept yet: '
    "<code>python -m qvla evaluate --task vqa --data FILE</code> makes one.</p>"
)
Update = dict[Any, Any]

log = logging.getLogger(__name__)


class MeasuredAnswers:
    """A chooser of evaluations where there are several, the chosen one's table, and its photos.

    Nothing is read before `fill`, so that the page itself opens at once.
    """

    def __init__(self, settings: Settings, folders: Sequence[QuestionFolder]) -> None:
        self.settings = settings
        gr.HTML("<h3>Measured</h3>", elem_classes="section-title")
        self.chooser = gr.Dropdown([], label="Evaluation", visible=False, elem_id="ask-evaluation")
        self.table = gr.HTML(label="Measured")
        self.photos = AnsweredPanel(folders, self._find)
        self.chooser.input(
            self.fill,
            inputs=[self.chooser, self.photos.shown],
            outputs=self.outputs,
            show_progress="hidden",
            api_name="choose_answers",
            api_visibility="undocumented",
        )

    @property
    def outputs(self) -> list[Any]:
        return [self.chooser, self.table, *self.photos.outputs]

    def fill(self, stem: str | None, shown: str) -> Update:
        """Shows the evaluation of this stem, or the first; `shown` is whose photos are shown."""
        evaluations = self._find()
        chosen = next((one for one in evaluations if one.stem == stem), None)
        chosen = chosen or next(iter(evaluations), None)
        return {
            self.chooser: gr.Dropdown(
                choices=[(one.title, one.stem) for one in evaluations],
                value=chosen and chosen.stem,
                visible=len(evaluations) > 1,
            ),
            self.table: NONE if chosen is None else render_measured(chosen.kept),
            **self.photos.fill(chosen.stem if chosen else "", shown),
        }

    def _find(self) -> list[Evaluation]:
        return find_evaluations(self.settings, log.warning, WHAT)


def render_measured(kept: Kept) -> str:
    """The table, what it is of, and the record that it opens to."""
    return f"{_lead(kept.record)}{_table(kept)}{render_records([kept])}"


def _lead(record: Record) -> str:
    return (
        f'<p class="lead">{record.items:,} questions of {escape(record.data.name)} to '
        f"{escape(record.model)}, on {escape(hardware_name(record))}: the share whose answer is "
        "the right one word for word, in per cent, with its 95 % interval.</p>"
    )


def _table(kept: Kept) -> str:
    record, titles = kept.record, titles_of([kept.record])
    groups = {f"{TYPE}{kind}": kind for kind in record.protocol.get("types", ())}
    rows = []
    for group, title in {**groups, ALL: "all questions"}.items():
        number = record.numbers.get(f"{ANSWERS}/{group}/questions")
        cells = [Cell(units.UNKNOWN if number is None else f"{number:,.0f}")]
        cells += [_cell(kept, name, group) for name in (MAJORITY, *record.variants)]
        rows.append((title, cells))
    columns = ("Type", "Questions", "Commonest answer", *(titles[name] for name in record.variants))
    notes = (
        "The commonest answer is that of the type among these very questions: what one would score "
        "who never looks at a photo.",
        *record.protocol.get("notes", ()),
    )
    return render_table(columns, rows, caption="Right answers by type") + notes_html(*notes)


def _cell(kept: Kept, name: str, group: str) -> Cell:
    key = f"{ANSWERS}/{name}/{group}/{METRIC}"
    numbers = kept.record.numbers
    if key not in numbers:
        return Cell(units.UNKNOWN)
    value, low, high = (100 * numbers[one] for one in (key, f"{key}/low", f"{key}/high"))
    return Cell(f"{value:.1f} ({low:.1f} to {high:.1f})", "measured", kept.path.stem)
