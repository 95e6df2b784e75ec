"""A lot of photos as a table on the page, and as CSV, JSON and a page to print."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from qvla.ui.compare.history import decoding_words, pane_record
from qvla.ui.compare.several.lot import Lot, Row
from qvla.ui.panes import Pane
from qvla.ui.sentences import as_sentence
from qvla.ui.tables import csv_text
from qvla.words import counted

STEM = "qvla-photos"
PRINTED = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Captions of {photos}</title><style>
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #17211e; background: #fff;
  font: 15px/1.45 ui-sans-serif, system-ui, sans-serif; }}
h1 {{ margin: 0; font-size: 1.3rem; }}
p {{ margin: .3rem 0 1.2rem; color: #525b56; }}
table {{ width: 100%; border-collapse: collapse; }}
th, td {{ padding: .5rem .7rem .5rem 0; border-top: 1px solid #cbcec4; text-align: left;
  vertical-align: top; font-weight: 400; overflow-wrap: anywhere; }}
thead th {{ border-top: 0; font-weight: 600; }}
tbody th {{ width: 20%; }}
img {{ display: block; width: 72px; height: 72px; margin-bottom: .2rem; object-fit: cover; }}
small {{ color: #525b56; }}
@page {{ margin: 15mm; }}
@media print {{ body {{ margin: 0; max-width: none; padding: 0; font-size: 10pt; }}
  thead {{ display: table-header-group; }} tr {{ break-inside: avoid; }} }}
</style></head><body><h1>Captions of {photos}</h1><p>{made}</p>
<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></body></html>
"""


def render_lot(lot: Lot | None, message: str = "") -> str:
    """The table in the order of the photos; each that has captions opens in Compare."""
    if lot is None:
        return ""
    titles = titles_of(lot)
    rows = "".join(_row(row, number, titles) for number, row in enumerate(lot.rows))
    return (
        f'<p class="count" role="status">{escape(progress(lot, message))}</p>'
        '<table class="history several"><caption class="sr-only">Captions of the photos</caption>'
        f"<thead><tr>{_head(titles)}</tr></thead><tbody>{rows}</tbody></table>"
    )


def progress(lot: Lot, message: str = "") -> str:
    """In a sentence how far it is."""
    total, done = len(lot.rows), len(lot.rows) - lot.waiting
    words = [f"{done} of {counted(total, 'photo')} done"]
    if lot.failed:
        words.append(f"{lot.failed} without captions")
    said = ", ".join(words) + "."
    if lot.left_out:
        said += f" {counted(lot.left_out, 'photo')} beyond the first {total} left out."
    return f"{said} {message}" if message and lot.waiting else said


def titles_of(lot: Lot) -> dict[str, str]:
    """Those who answer, by name."""
    return {pane.name: pane.title for row in lot.rows for pane in row.panes}


def as_csv(lot: Lot) -> str:
    """One row a photo, one column a contender."""
    titles = titles_of(lot)
    columns = ("photo", *titles.values(), "problem", "notes")
    rows = []
    for row in lot.rows:
        said = {pane.name: pane.text or pane.message for pane in row.panes}
        captions = (said.get(name, "") for name in titles)
        rows.append((row.photo, *captions, row.problem, " ".join(row.notes)))
    return csv_text(columns, rows)


def as_json(lot: Lot) -> str:
    """An object a photo, as `qvla caption --json` has them."""
    return json.dumps([_record(row, lot) for row in lot.rows], indent=2, ensure_ascii=False) + "\n"


def as_page(lot: Lot, model: str) -> str:
    """A page by itself: nothing is fetched for it, the photos are small and inside."""
    titles = titles_of(lot)
    rows = "".join(_printed(row, list(titles)) for row in lot.rows)
    made = escape(f"By {model}. {decoding_words(lot.options)}.")
    photos = counted(len(lot.rows), "photo")
    return PRINTED.format(photos=photos, made=made, head=_head(titles), rows=rows)


def write_downloads(lot: Lot, model: str, place: Path) -> tuple[Path, list[str]]:
    """Writes CSV, JSON and page into a new folder, whose name nobody can guess: that and the
    files' paths.
    """
    folder = place / secrets.token_urlsafe(24)
    folder.mkdir(parents=True)
    paths = []
    for ending, text in (
        ("csv", as_csv(lot)),
        ("json", as_json(lot)),
        ("html", as_page(lot, model)),
    ):
        path = folder / f"{STEM}.{ending}"
        path.write_text(text, encoding="utf-8", newline="")
        paths.append(str(path))
    return folder, paths


def _record(row: Row, lot: Lot) -> dict[str, Any]:
    record: dict[str, Any] = {"photo": row.photo}
    if row.problem or row.waiting:
        return {**record, "error": row.problem or "It was not captioned."}
    if row.notes:
        record["notes"] = list(row.notes)
    variants = {pane.name: _without_times(pane) for pane in row.panes}
    return {**record, "decoding": lot.options, "variants": variants}


def _without_times(pane: Pane) -> dict[str, Any]:
    """A pane's record without what was not measured, of one photo among others."""
    untimed = ("seconds", "seconds_to_first_token", "tokens_per_second", "cider_d", "rouge_l")
    unsaid = (*untimed, "message") if pane.text else untimed
    return {name: value for name, value in pane_record(pane).items() if name not in unsaid}


def _head(titles: dict[str, str]) -> str:
    columns = titles.values() or ["Captions"]
    return "".join(f'<th scope="col">{escape(title)}</th>' for title in ("Photo", *columns))


def _row(row: Row, number: int, titles: dict[str, str]) -> str:
    picture = (
        f'<img src="{escape(row.thumbnail)}" alt="" width="48" height="48">'
        if row.thumbnail
        else '<i class="no-picture"></i>'
    )
    opens = (
        f'<button type="button" class="row-button" data-row="{number}" '
        f'aria-label="Open {escape(row.photo)} in Compare">Open</button>'
        if row.panes
        else ""
    )
    return (
        f'<tr data-state="{_state(row)}"><th scope="row"><div>{picture}'
        f"<span><b>{escape(row.photo)}</b>{opens}</span></div></th>{_cells(row, titles)}</tr>"
    )


def _state(row: Row) -> str:
    return "problem" if row.problem else "waiting" if row.waiting else "done"


def _cells(row: Row, titles: dict[str, str]) -> str:
    if not row.panes:
        said = escape(row.problem) or "–"
        return f'<td colspan="{len(titles) or 1}"><span>{said}</span></td>'
    panes = {pane.name: pane for pane in row.panes}
    cells = []
    for name, title in titles.items():
        pane = panes.get(name)
        said = "–" if pane is None else escape(as_sentence(pane.text) or pane.message)
        cells.append(f'<td data-title="{escape(title)}"><span>{said}</span></td>')
    return "".join(cells)


def _printed(row: Row, names: Sequence[str]) -> str:
    picture = f'<img src="{escape(row.thumbnail)}" alt="">' if row.thumbnail else ""
    notes = f"<br><small>{escape(' '.join(row.notes))}</small>" if row.notes else ""
    head = f'<th scope="row">{picture}{escape(row.photo)}{notes}</th>'
    if not row.panes:
        said = escape(row.problem) or "Not captioned."
        return f'<tr>{head}<td colspan="{len(names) or 1}">{said}</td></tr>'
    said = {pane.name: as_sentence(pane.text) or pane.message for pane in row.panes}
    cells = "".join(f"<td>{escape(said.get(name, ''))}</td>" for name in names)
    return f"<tr>{head}{cells}</tr>"
