"""Against the report: one row a thing, what is reported and what was measured beside each other.

It is a table and no figure, because what runs here is often another model than the report's, on
another machine: on one axis the two would be compared as they cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qvla.records.reported import reported
from qvla.ui.figures import KINDS
from qvla.ui.measured.exhibits import Entry, Exhibit, cell_of
from qvla.ui.measured.subjects import is_reports_model
from qvla.ui.tables import render_table

TITLE = "Against the report"


def report_exhibit(name: str) -> Exhibit:
    """The section of a tab; `name` is the tab's."""
    lead = f"{reported()['model']} on {reported()['hardware']}, beside what was measured here."
    return Exhibit(f"{name}-report", TITLE, lead, plot=False)


def beside(
    entries: Sequence[Entry],
    shown: Callable[[Entry], str],
    titles: Mapping[str, str],
    *,
    caption: str,
) -> str:
    """A row for each quantity of a variant that the report has, a column a kind of figure."""
    by_place = {(one.quantity, one.variant, one.kind): one for one in entries}
    told = [one for one in entries if one.kind != "measured"]
    kinds = sorted({*(one.kind for one in told), "measured"}, key=KINDS.index)
    rows = [
        (
            f"{quantity}, {titles[variant]}",
            [cell_of(by_place.get((quantity, variant, kind)), shown) for kind in kinds],
        )
        for quantity, variant in dict.fromkeys((one.quantity, one.variant) for one in told)
    ]
    return render_table(("Figure", *map(str.capitalize, kinds)), rows, caption=caption)


def another_model(model: str | None) -> list[str]:
    """The sentence that has to stand by figures of a model that the report did not measure."""
    if model is None or is_reports_model(model):
        return []
    return [
        f"{model} is another model than the report's: compare its variants with each other, not "
        "with the report's."
    ]
