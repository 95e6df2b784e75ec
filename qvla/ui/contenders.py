"""Who is told apart on the page: contenders by name, with their titles and colours.

The three that the settings name come first and have colours of their own; any others follow in the
order in which they are named, with colours of a short palette that begins anew at its end.
"""

from __future__ import annotations

from collections.abc import Iterable

from qvla.captioning.contenders import TITLES
from qvla.records.store import Record

PALETTE = 6  # further colours; as many in `style.css` (--other-1 …) and in `figures.py`


def titles_of(records: Iterable[Record] = ()) -> dict[str, str]:
    """Titles by name: of the default three, then of all others that the records name.

    A record holds the titles of its contenders; one from before that has names alone.
    """
    titles = dict(TITLES)
    for record in records:
        told = record.protocol.get("contenders")
        for name in record.variants:
            own = told.get(name) if isinstance(told, dict) else None
            title = own.get("title") if isinstance(own, dict) else None
            titles.setdefault(name, title if isinstance(title, str) and title else name)
    return titles


def places_of(names: Iterable[str]) -> dict[str, int]:
    """The place in the palette, from 0, of each contender that has no colour of its own."""
    others = [name for name in dict.fromkeys(names) if name not in TITLES]
    return {name: place % PALETTE for place, name in enumerate(others)}


def colour_style(name: str, names: Iterable[str]) -> str:
    """An attribute with the colour of a contender among `names`; none where the style sheet has it.

    Its leading space separates it from what stands before.
    """
    place = places_of(names).get(name)
    return "" if place is None else f' style="--own:var(--other-{place + 1})"'
