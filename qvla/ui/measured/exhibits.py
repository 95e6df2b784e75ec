"""One set of figures, shown three ways from the same list: as a table, as a plot and as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.ui.figures import KINDS, Series, bars, colours, far_apart
from qvla.ui.measured.subjects import Value
from qvla.ui.tables import Cell, Kind, render_table, write_csv
from qvla.ui.units import UNKNOWN

if TYPE_CHECKING:
    import plotly.graph_objects as go

CSV_COLUMNS = ("quantity", "variant", "kind", "value", "unit", "lowest", "highest", "record")


@dataclass(frozen=True)
class Entry:
    """One figure. `unit` is that of `value`; `record` the file stem of a measured one's record."""

    quantity: str
    variant: str
    kind: Kind
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    record: str = ""

    @classmethod
    def measured(
        cls, quantity: str, variant: str, unit: str, value: Value, kind: Kind = "measured"
    ) -> Entry:
        return cls(quantity, variant, kind, value.number, unit, value.low, value.high, value.record)


def entries_table(
    entries: Sequence[Entry],
    shown: Callable[[Entry], str],
    titles: Mapping[str, str],
    *,
    first: str,
    caption: str,
) -> str:
    """A row a quantity and kind, a column a variant: those of `titles`, by name."""
    by_place = {(one.quantity, one.kind, one.variant): one for one in entries}
    rows = []
    for quantity, kind in dict.fromkeys((one.quantity, one.kind) for one in entries):
        found = [by_place.get((quantity, kind, variant)) for variant in titles]
        rows.append((quantity, [cell_of(one, shown) for one in found]))
    return render_table((first, *titles.values()), rows, caption=caption)


def entries_bars(
    entries: Sequence[Entry],
    titles: Mapping[str, str],
    *,
    y_title: str,
    unit: str,
    scale: float = 1.0,
    may_be_logarithmic: bool = False,
) -> go.Figure:
    """A group of bars a quantity, a bar a variant and kind. Values are divided by `scale`.

    Where they are far apart the axis is logarithmic, if it may be.
    """
    places = list(dict.fromkeys(one.quantity for one in entries))
    series = []
    colour_of = colours(titles)
    for variant, title in titles.items():
        kinds = dict.fromkeys(one.kind for one in entries if one.variant == variant)
        for kind in sorted(kinds, key=KINDS.index):
            of = {e.quantity: e for e in entries if (e.variant, e.kind) == (variant, kind)}
            series.append(
                Series(
                    title,
                    places,
                    _scaled((of[p].value if p in of else None for p in places), scale),
                    variant,
                    kind,
                    _scaled((of[p].low if p in of else None for p in places), scale),
                    _scaled((of[p].high if p in of else None for p in places), scale),
                    colour_of[variant],
                )
            )
    logarithmic = may_be_logarithmic and far_apart(series)
    title = f"{y_title}, logarithmic" if logarithmic else y_title
    return bars(series, y_title=title, unit=unit, logarithmic=logarithmic)


def entries_csv(name: str, entries: Iterable[Entry]) -> str:
    """The file's path. Numbers are given in full."""
    rows = [
        (e.quantity, e.variant, e.kind, e.value, e.unit, e.low, e.high, e.record) for e in entries
    ]
    return write_csv(name, CSV_COLUMNS, rows)


class Exhibit:
    """A heading, a plot, its numbers as a table below, and a button for them as CSV."""

    def __init__(self, name: str, title: str, lead: str = "", *, plot: bool = True) -> None:
        self.name = name
        with gr.Column(elem_classes="exhibit", elem_id=name, min_width=320):
            with gr.Row(elem_classes="section-head"):
                gr.HTML(f"<h3>{title}</h3>", elem_classes="section-title")
                self.csv = gr.DownloadButton(
                    "CSV", interactive=False, size="sm", elem_id=f"{name}-csv"
                )
            gr.HTML(f'<p class="lead">{lead}</p>' if lead else "", visible=bool(lead))
            self.plot = (
                gr.Plot(
                    label=title,
                    show_label=False,
                    container=False,
                    visible=False,
                    elem_id=f"{name}-plot",
                )
                if plot
                else None
            )
            self.table = gr.HTML(elem_id=f"{name}-table", label=title)

    @property
    def outputs(self) -> list[Any]:
        return [part for part in (self.csv, self.plot, self.table) if part is not None]

    def show(self, figure: go.Figure | None, table: str, csv: str | None) -> dict[Any, Any]:
        """The updates that show these; what is None is not there."""
        updates = {
            self.csv: gr.DownloadButton(value=csv, interactive=csv is not None),
            self.table: table,
        }
        if self.plot is not None:
            updates[self.plot] = gr.Plot(value=figure, visible=figure is not None)
        return updates


def cell_of(entry: Entry | None, shown: Callable[[Entry], str]) -> Cell:
    return Cell(UNKNOWN) if entry is None else Cell(shown(entry), entry.kind, entry.record)


def _scaled(values: Iterable[float | None], scale: float) -> list[float | None]:
    return [None if value is None else value / scale for value in values]
