"""Tables of figures that say where they come from, and the records that they open to.

A figure is reported (by the report), corrected (what the report's own notebooks show where its
table errs), planned or measured; a measured one links to its record further down on the same tab.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from gradio.utils import get_upload_folder

from qvla.records import store as records
from qvla.records.store import Kept
from qvla.settings import Settings
from qvla.ui.units import UNKNOWN

Kind = Literal["", "reported", "corrected", "planned", "measured"]
STACKING = (2, 3)  # columns of figures that fit a telephone below their row's name
FORMULA = tuple("=+-@\t\r\n")  # a cell that begins with one of them is a formula to a spreadsheet


@dataclass(frozen=True)
class Cell:
    """One figure as text. `record` is the file stem of the record that a measured one is from."""

    text: str
    kind: Kind = ""
    record: str = ""


def record_folders(settings: Settings) -> tuple[Path, ...]:
    """Where the records shown on the page lie: those shipped, and those measured here.

    A folder named in the settings takes the place of both.
    """
    own = "records" in settings.model_fields_set
    return (settings.records,) if own else (records.SHIPPED, settings.records)


def render_table(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], *, caption: str
) -> str:
    """A table as HTML. The first column is that of the rows' names.

    On narrow screens few columns go below their row's name; where there are more, the table scrolls
    within its own frame, and by keyboard too.
    """
    for name, cells in rows:
        if len(cells) != len(columns) - 1:
            raise ValueError(f"the row {name} has {len(cells)} cells for {len(columns)} columns")
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(map(_cell, cells))}</tr>'
        for name, cells in rows
    )
    kind = "measured stacking" if len(columns) - 1 in STACKING else "measured"
    return (
        f'<div class="table-frame" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f'<table class="{kind}" style="--columns:{len(columns) - 1}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def render_records(kept: Sequence[Kept]) -> str:
    """The records as they lie on disk, the newest first, each closed until it is asked for."""
    if not kept:
        return '<p class="empty">There is no record yet.</p>'
    newest_first = sorted(kept, key=lambda one: one.record.date, reverse=True)
    return f'<div class="records">{"".join(map(_record, newest_first))}</div>'


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as CSV for spreadsheets: every CSV that the page gives away is written here.

    Texts that a spreadsheet would compute (`=HYPERLINK(…)`) have an apostrophe before them, which
    marks them as text. Numbers are left as they are.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([_as_text(cell) for cell in row] for row in (columns, *rows))
    return text.getvalue()


def write_csv(name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Writes a table as NAME.csv into Gradio's cache, for a `gr.DownloadButton`; its path.

    The same content gives the same path, so that visits share files.
    """
    content = csv_text(columns, rows)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", name.removesuffix(".csv"))
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    path = Path(get_upload_folder()) / "tables" / digest / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(content, encoding="utf-8", newline="")
    os.replace(temporary, path)
    return str(path)


def hardware_name(record: records.Record) -> str:
    """What it was measured on: the accelerators, or the processor where that did the work."""
    if str(record.protocol.get("device", "")).startswith("cpu"):
        return record.hardware.processor
    return ", ".join(record.hardware.accelerators) or record.hardware.processor


def _as_text(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.text == UNKNOWN or not cell.kind:
        return f"<td><span>{text}</span></td>"
    if cell.record:
        text = f'<a href="#record-{escape(cell.record)}">{text}</a>'
    return f'<td data-kind="{cell.kind}"><span>{text}</span><small>{cell.kind}</small></td>'


def _record(kept: Kept) -> str:
    record = kept.record
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    facts = {
        "Model": record.model,
        "Variants": ", ".join(record.variants),
        "Data": f"{record.data.name}, {record.data.items} items" if record.data else "none",
        "Hardware": f"{hardware_name(record)}, {record.hardware.cores} cores, "
        f"{record.hardware.memory_bytes / 1e9:.0f} GB of memory, {record.hardware.system}",
        "Versions": versions,
        "Commit": record.commit or "outside of version control",
        "Date": f"{record.date:%d %B %Y, %H:%M} {record.date.tzname() or ''}".strip(),
        "File": kept.path.name,
    }
    shown = "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    summary = f"{record.model} · {hardware_name(record)} · {record.date:%d %B %Y}"
    return (
        f'<details class="record" id="record-{escape(kept.path.stem)}">'
        f"<summary><b>{escape(record.what)}</b> <span>{escape(summary)}</span></summary>"
        f"<dl>{shown}</dl>"
        f'<pre tabindex="0"><code>{escape(record.model_dump_json(indent=2))}</code></pre></details>'
    )
