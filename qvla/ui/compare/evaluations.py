"""The evaluations that tell of a pane: how well it does, and from where on it is sure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qvla.records.store import Record
from qvla.settings import Settings
from qvla.ui.origins import find_records
from qvla.ui.pane import Pane


def evaluations_of(
    pane: Pane, settings: Settings, on_problem: Callable[[str], None]
) -> Iterator[tuple[Record, str]]:
    """Those of its base and adapter that ship or are the owner's, each with the name that it has
    there: that of most photos first, the newest of equals. What a visitor or a job measured is
    theirs.
    """
    newest = find_records(settings, on_problem, "evaluation")
    for found in sorted(newest, key=lambda one: one.record.items, reverse=True):
        name = None if found.whose else _name_in(found.record, pane)
        if name is not None:
            yield found.record, name


def _name_in(record: Record, pane: Pane) -> str | None:
    """Under which name a record holds a pane's base and adapter, in 4 bits or not."""
    contenders = record.protocol.get("contenders")
    for name, one in (contenders if isinstance(contenders, dict) else {}).items():
        quantised = one["precision"] == "nf4"
        if (one["base"], one["adapter"]) == (pane.model, pane.adapter) and quantised == (
            pane.precision == "nf4"
        ):
            return str(name)
    return None
