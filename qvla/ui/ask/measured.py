"""How many questions of each type the contenders answered right, from the newest evaluation."""

from __future__ import annotations

import logging
from html import escape

from qvla.evaluation.answers import MAJORITY, TYPE
from qvla.evaluation.scores import ALL
from qvla.records.store import Kept, Record
from qvla.scoring.answers import ANSWERS
from qvla.settings import Settings
from qvla.ui import units
from qvla.ui.contenders import titles_of
from qvla.ui.measured.tab import notes_html
from qvla.ui.origins import find_records
from qvla.ui.tables import Cell, hardware_name, render_records, render_table

WHAT = "answers"  # of the records
METRIC = "exact_match"
NONE = (
    '<p class="empty">No evaluation of answers is kept yet: '
    "<code>python -m qvla evaluate --task vqa --data FILE</code> makes one.</p>"
)

log = logging.getLogger(__name__)


def newest(settings: Settings) -> Kept | None:
    """The newest that ships or is the owner's, of the model that runs here before any other."""
    found = [one.kept for one in find_records(settings, log.warning, WHAT) if not one.whose]
    own = [one for one in found if one.record.model == settings.model_name]
    return next(iter([*own, *found]), None)


def render_measured(settings: Settings) -> str:
    """The table, what it is of, and the record that it opens to; how to make one without any."""
    kept = newest(settings)
    return NONE if kept is None else f"{_lead(kept.record)}{_table(kept)}{render_records([kept])}"


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
