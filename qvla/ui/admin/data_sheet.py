"""What was brought as data, before anything is trained on it: the check's report and a sheet."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from html import escape

from qvla.data.archive import Taken
from qvla.data.examples import rows_of
from qvla.data.imagery import open_image
from qvla.data.risc import Row
from qvla.errors import QvlaError
from qvla.ui.pictures import data_uri
from qvla.words import counted

MOST_PROBLEMS = 12
MOST_PHOTOS = 24
PIXELS = 96


def render_taken(taken: Taken) -> str:
    """The verdict with rows by split, the first problems by their lines, and a sheet of photos."""
    rows = rows_of(taken.folder)
    problems = taken.report.problems
    bad = {(one.table, one.line) for one in problems}
    splits = Counter(row.split for row in rows)
    by_split = ", ".join(f"{escape(name)} {count:,}" for name, count in splits.items())
    good = [row for row in rows if (str(row.table), row.line) not in bad]
    return (
        f'<p class="notice" role="status">{escape(taken.sentence)} Rows by split: {by_split}.</p>'
        f"{_problems(taken)}{_sheet(good)}"
    )


def _problems(taken: Taken) -> str:
    found = taken.report.problems
    if not found:
        return ""
    items = "".join(
        f"<li>line {one.line}, {escape(one.image) or 'no image'}: {escape(one.message)}</li>"
        for one in found[:MOST_PROBLEMS]
    )
    more = len(found) - MOST_PROBLEMS
    rest = f"<li>and {more:,} more</li>" if more > 0 else ""
    return (
        f'<details class="command"><summary>{escape(counted(len(found), "problem"))}</summary>'
        f'<ul class="notes">{items}{rest}</ul></details>'
    )


def _sheet(rows: list[Row]) -> str:
    """Thumbnails spread evenly over the rows, each with its first caption."""
    stride = max(1, len(rows) // MOST_PHOTOS)
    items = ""
    for row in rows[::stride][:MOST_PHOTOS]:
        with suppress(QvlaError, OSError):
            picture = data_uri(open_image(row.path), PIXELS)
            said = f"{row.image}: {row.captions[0]}" if row.captions else row.image
            items += f'<li><img src="{picture}" alt="{escape(said)}" title="{escape(said)}"></li>'
    return f'<ul class="sheet" aria-label="Photos of the data">{items}</ul>' if items else ""
