"""What each method costs on a base, as cards."""

from __future__ import annotations

from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from qvla.methods.registry import KINDS
from qvla.ui import units

if TYPE_CHECKING:
    from qvla.planning.comparison import Row


@lru_cache(maxsize=8)
def costs(model: str) -> dict[str, Row]:
    """What the explorer says of every kind of recipe on this base, at its usual settings.

    Raises BackboneError for a base that is not known.
    """
    from qvla.planning.comparison import compare

    return dict(zip(KINDS, compare(model, tuple(KINDS)), strict=True))


def render_method_cards(rows: dict[str, Row], model: str) -> str:
    """A card a kind of recipe with its cost; what a base cannot carry says why."""
    items = "".join(_card(name, row) for name, row in rows.items())
    lead = (
        f"On {Path(model).name}, each at its usual settings: trained parameters, memory to train "
        "on a GPU in batches of 4, and the size of the file."
    )
    return f'<p class="lead">{escape(lead)}</p><ul class="cards methods">{items}</ul>'


def _card(name: str, row: Row) -> str:
    from qvla.planning.comparison import Refused

    title = f"{row.title}, NF4 base" if KINDS[name].quantised else row.title
    head = f"<b>{escape(name)}</b> <small>{escape(title)}</small>"
    if isinstance(row, Refused):
        return f'<li><div class="card refused">{head} <span>{escape(row.reason)}</span></div></li>'
    memory = units.size(row.train_bytes)
    figures = (
        f"{row.trainable_params:,} parameters ({row.percent:.3g} %)",
        f"{memory} to train" if row.train_bytes else "memory not planned",
        f"{units.size(row.adapter_bytes)} on disk",
    )
    shown = "".join(f"<span>{one}</span>" for one in figures)
    return f'<li><div class="card">{head} {shown}</div></li>'
