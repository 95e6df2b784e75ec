"""All methods on one model, side by side: a row each, as a table and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvla.errors import QvlaError
from qvla.methods.registry import METHODS
from qvla.models.params import read_model_config
from qvla.planning.explorer import Exploration, explore, find_kind

COLUMNS = (
    *("method", "title", "precision", "trainable_params", "percent", "adapter_bytes"),
    *("train_bytes", "serve_bytes", "token_operations", "photo_operations"),
    *("mergeable", "works_on_nf4", "reason"),
)


@dataclass(frozen=True)
class Refused:
    """A method that cannot be had as asked, and why."""

    method: str
    title: str
    reason: str


Row = Exploration | Refused


def compare(
    model: str | Path,
    methods: Sequence[str] = (),
    *,
    precision: str | None = None,
    **fields: Any,
) -> list[Row]:
    """One row a method for the same model, by default of every method. Each takes those of the
    `fields` that it has, and is left at its defaults otherwise; one that cannot be had so says why.

    Raises BackboneError for an unknown model or one of a family that is not known here.
    """
    read_model_config(model)  # what is wrong with the model itself is said once
    rows: list[Row] = []
    for name in methods or METHODS:
        entry = METHODS[name] if name in METHODS else find_kind(name).method
        own = {field: value for field, value in fields.items() if field in entry.fields}
        try:
            rows.append(explore(model, name, precision=precision, **own))
        except QvlaError as error:
            rows.append(Refused(entry.name, entry.title, str(error)))
    return rows


def as_row(row: Row) -> list[Any]:
    """A row in the order of COLUMNS; what is not known is empty."""
    values = vars(row) | {"percent": getattr(row, "percent", None)}
    if isinstance(row, Exploration):
        values |= {"percent": round(row.percent, 4), "reason": row.nf4_reason}
    return ["" if values.get(name) is None else values[name] for name in COLUMNS]
