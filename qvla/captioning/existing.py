"""Who carries an adapter of which method, told from the files of the adapters alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qvla.captioning.bank import CONFIG, LARGEST_FILE
from qvla.captioning.contenders import Contender, base_identity
from qvla.files import parse_json
from qvla.hub import cached_file
from qvla.methods.registry import method_of

QUANTISED = ("int8", "nf4")


def by_method(
    contenders: Iterable[Contender], model: str, precision: str | None = None
) -> dict[str, Contender]:
    """The first contender with an adapter on this model for each method that has one, by the
    method's name.

    With a `precision` the base must be held alike: in NF4, in INT8, or in floats of any width.
    Nothing is fetched: an adapter of the hub that is not in the download cache does not count.
    """
    base = base_identity(model)
    found: dict[str, Contender] = {}
    for one in contenders:
        if one.adapter is None or base_identity(one.base) != base:
            continue
        if precision is not None and _held(one.precision) != _held(precision):
            continue
        method = adapter_method_at(one.adapter)
        if method is not None:
            found.setdefault(method, one)
    return found


def adapter_method_at(adapter: str) -> str | None:
    """The name of the method that an adapter's configuration tells, by folder or hub id; None
    where it is not at hand or tells none that there is here.
    """
    folder = Path(adapter).expanduser()
    file = folder / CONFIG if folder.is_dir() else cached_file(adapter, CONFIG)
    try:
        if file is None or file.stat().st_size > LARGEST_FILE:
            return None
        values = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return None
    method = method_of(values) if isinstance(values, dict) else None
    return None if method is None else method.name


def _held(precision: str) -> str:
    return precision if precision in QUANTISED else "float"
