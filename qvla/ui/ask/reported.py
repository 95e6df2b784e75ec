"""What a report on answering questions about product photos reports, marked so."""

from __future__ import annotations

from html import escape

from qvla.records.reported import reported_answers
from qvla.ui.measured.tab import notes_html
from qvla.ui.tables import Cell, render_table

COLUMNS = {"f1": "F1", "bertscore_f1": "BERTScore", "csns": "CSNS", "vtgs": "VTGS"}


def render_reported() -> str:
    """The three tables as one, and the notes; none of it was measured here."""
    told = reported_answers()
    table = render_table(
        ("Model", *COLUMNS.values()),
        [
            (
                f"{one['model']}, {one['setting']} (table {one['table']})",
                [Cell(f"{one[name]:.4f}", "reported") for name in COLUMNS],
            )
            for one in told["results"]
        ],
        caption="Answers about product photos, reported",
    )
    lead = f'<p class="lead">On {escape(told["data"])}, by {escape(told["source"])}.</p>'
    return f"{lead}{table}{notes_html(*told['notes'])}"
