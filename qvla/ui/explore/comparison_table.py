"""The methods side by side, as a table that sorts in the browser, and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from qvla.planning.comparison import COLUMNS, Row, as_row
from qvla.planning.explorer import Exploration
from qvla.ui import units
from qvla.ui.compare.offers import Offer
from qvla.ui.explore.answer import operations
from qvla.ui.tables import write_csv

HEADS = (
    *("Method", "Trained", "Per cent", "On disk", "To train", "To serve", "A token"),
    *("Merges", "NF4", ""),
)


def render_comparison(
    rows: Sequence[Row], model: str, panes: Mapping[str, Offer] | None = None
) -> str:
    """A row a method; each opens above, or says why it cannot be had.

    `panes` are those who answer with an adapter of a method, by its name: their rows open them in
    Compare, and the others fill in the form of a fine-tune.
    """
    head = "".join(
        f'<th scope="col"><button type="button">{name}</button></th>'
        if name
        else '<th scope="col"><span class="sr-only">Actions</span></th>'
        for name in HEADS
    )
    body = "".join(_row(row, (panes or {}).get(row.method)) for row in rows)
    caption = escape(f"Methods on {model}")
    return (
        f'<div class="table-frame" role="region" tabindex="0" aria-label="{caption}">'
        f'<table class="measured sortable"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def comparison_csv(rows: Sequence[Row], model: str) -> str:
    """The file's path; numbers are given in full."""
    return write_csv(f"methods-{model}", COLUMNS, [as_row(row) for row in rows])


def _planned(count: int | None) -> str:
    return "not planned" if count is None else units.size(count)


def _row(row: Row, pane: Offer | None) -> str:
    name = f'<th scope="row">{escape(row.title)}</th>'
    if not isinstance(row, Exploration):
        empty = '<td data-value=""></td>'
        reason = f'<td data-value="" class="reason" colspan="1">{escape(row.reason)}</td>'
        return f"<tr>{name}{reason}{empty * (len(HEADS) - 2)}</tr>"
    cells: list[tuple[Any, str]] = [
        (row.trainable_params, f"{row.trainable_params:,}"),
        (row.percent, f"{row.percent:.3g}"),
        (row.adapter_bytes, units.size(row.adapter_bytes)),
        (row.train_bytes, _planned(row.train_bytes)),
        (row.serve_bytes, _planned(row.serve_bytes)),
        (row.token_operations, operations(row.token_operations).removesuffix(" operations")),
        (int(row.mergeable), "yes" if row.mergeable else "no"),
        (int(row.works_on_nf4), "yes" if row.works_on_nf4 else "no"),
    ]
    shown = "".join(
        f'<td data-value="{"" if value is None else value}"><span>{text}</span></td>'
        for value, text in cells
    )
    show = _button("method", row.method, "Show", f"Show {row.title}")
    if pane is not None:
        go_on = _button("pane", pane.name, "Compare", f"Compare {pane.title}, {row.title}")
    else:
        go_on = _button("tune", row.method, "Fine-tune", f"Fine-tune with {row.title}")
    return f'<tr>{name}{shown}<td class="row-buttons">{show}{go_on}</td></tr>'


def _button(kind: str, value: str, text: str, label: str) -> str:
    return (
        f'<button type="button" class="show-row" data-{kind}="{escape(value)}" '
        f'aria-label="{escape(label)}">{text}</button>'
    )
