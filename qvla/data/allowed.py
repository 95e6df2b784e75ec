"""Which data and base models a form may name: hub ids, and what lies in folders that the settings
allow. Whatever lies elsewhere is refused in the same words, whether it is there or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from qvla.data.layouts import READ_AS_TABLES
from qvla.errors import QvlaError
from qvla.settings import Settings


class PlaceError(QvlaError):
    """The name is none that may be used; the message says which may."""


def data_place(name: str, settings: Settings) -> str:
    """The data that a form names: its real path, or the hub id as it is. Raises PlaceError."""
    name = _text(name, "data")
    if _is_on_hub(name):
        return name
    roots = [settings.data, settings.examples, settings.uploads, *settings.data_roots]
    path = _inside(name, roots, "data", "QVLA_DATA or QVLA_DATA_ROOTS")
    # The folder is within; what it is read through must be as well.
    for link in _links(path):
        _inside(str(link), roots, "data", "QVLA_DATA or QVLA_DATA_ROOTS")
    return str(path)


def model_place(name: str, settings: Settings, finished: Iterable[Path] = ()) -> str:
    """The base that a form names: the app's own, a hub id, or a real path within `data_roots` or
    one of the `finished` full fine-tunes. Raises PlaceError.
    """
    name = _text(name, "base model")
    if name == settings.model or _is_on_hub(name):
        return name
    roots = [Path(settings.model), *settings.data_roots, *finished]
    return str(_inside(name, roots, "base model", "QVLA_MODEL or QVLA_DATA_ROOTS"))


def _links(folder: Path) -> Iterator[Path]:
    """Links among the folders and tables within, at any depth."""
    for place, folders, files in os.walk(folder):  # which follows no link
        tables = [file for file in files if Path(file).suffix.lower() in READ_AS_TABLES]
        yield from (
            Path(place, name) for name in (*folders, *tables) if Path(place, name).is_symlink()
        )


def _text(name: object, what: str) -> str:
    text = name.strip() if isinstance(name, str) else ""
    if not text:
        raise PlaceError(f"Name the {what}: a folder that the settings allow, or a hub id.")
    return text


def _is_on_hub(name: str) -> bool:
    from qvla.hub import is_hub_id

    return is_hub_id(name) and not Path(name).exists()


def _inside(name: str, roots: Sequence[Path | None], what: str, variable: str) -> Path:
    try:
        path = Path(name).expanduser().resolve()
        allowed = [root.expanduser().resolve() for root in roots if root is not None]
        inside = any(path.is_relative_to(root) for root in allowed)
    except (OSError, ValueError, RuntimeError):  # a name no path can have, or a ring of links
        inside = False
    if not inside:
        raise PlaceError(
            f"The {what} {name} is neither a hub id nor in a folder that jobs may use: see "
            f"{variable}."
        )
    if not path.exists():
        raise PlaceError(f"There is no {what} {name}: check the path.")
    return path
