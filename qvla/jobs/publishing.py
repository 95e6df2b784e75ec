"""Adapters of finished jobs in the panes of the Compare tab, in place of those of the settings.

`published.json` among the jobs says which job answers in which pane, so that a restart changes
nothing. Where it cannot be done again, the pane answers as the settings say, and `problems` why.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvla.errors import QvlaError
from qvla.files import parse_json, write_json
from qvla.methods.registry import KINDS
from qvla.settings import Settings

if TYPE_CHECKING:
    from qvla.captioning.lineup import Lineup

log = logging.getLogger(__name__)

FILE = "published.json"
TITLES = {"adapter": "Adapter", "qvla": "QVLA"}

_lock = threading.RLock()  # one change at a time: of the file, and of the line-up with it
_problems: dict[Path, dict[str, str]] = {}  # by the file


class PublishingError(QvlaError):
    """The adapter cannot be put into a pane, or taken back; the message says why."""


@dataclass(frozen=True)
class Published:
    """What answers in a pane: a job's adapter, and the base that it was made for."""

    job: str
    folder: str
    model: str

    @property
    def name(self) -> str:
        return shown_name(self.job)


def pane_of(kind: str) -> str | None:
    """The pane in which adapters of a kind of recipe answer; None for what is no adapter."""
    found = KINDS.get(kind)
    if found is None or not found.method.is_adapter:
        return None
    return "qvla" if found.quantised else "adapter"


def shown_name(job_id: str) -> str:
    """A job's short name, as panes and lists show it."""
    return f"job {job_id.rpartition('-')[2]}"


def published(settings: Settings) -> dict[str, Published]:
    """What was published, by pane; a file that cannot be read says that nothing was."""
    try:
        values = parse_json(_file(settings).read_bytes())
        return {pane: Published(**values[pane]) for pane in TITLES if pane in values}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s cannot be read (%s).", _file(settings), error)
        return {}


def problems(settings: Settings) -> dict[str, str]:
    """Why a published adapter does not answer in its pane, in a sentence a pane."""
    with _lock:
        return dict(_problems.get(_file(settings), {}))


def publish(
    settings: Settings, lineup: Lineup, job_id: str, recipe: dict[str, Any], folder: Path
) -> str:
    """Puts a finished job's adapter into the pane of its method, and returns the pane.

    Comparisons under way end with the adapter that they began with. Raises PublishingError, or
    AdapterError, and then the pane answers as before.
    """
    pane, model = pane_of(recipe["method"]), str(recipe["model"])
    if pane is None:
        raise PublishingError(
            "All weights of the base were trained, so this is a model of its own and no adapter: "
            f"serve it with QVLA_MODEL={folder} python -m qvla serve."
        )
    if _identity(model) != _identity(settings.model):
        raise PublishingError(
            f"It was trained on {Path(model).name} and the panes show {Path(settings.model).name}: "
            f"serve that model with QVLA_MODEL={model} to publish it."
        )
    one = Published(job_id, str(folder), model)
    with _lock:
        lineup.swap_adapter(pane, folder, shown=one.name)
        _write(settings, {**published(settings), pane: one})
        _problems.get(_file(settings), {}).pop(pane, None)
    return pane


def take_back(settings: Settings, lineup: Lineup, pane: str) -> None:
    """The pane answers as the settings say again: with their adapter, or not at all."""
    with _lock:
        others = published(settings)
        if others.pop(pane, None) is None:
            raise PublishingError("Nothing is published in that pane.")
        own = settings.adapter if pane == "adapter" else settings.nf4_adapter
        told = _problems.setdefault(_file(settings), {})
        told.pop(pane, None)
        try:
            if own is None:
                lineup.drop_adapter(pane)
            else:
                lineup.swap_adapter(pane, own)
        except QvlaError as error:
            lineup.drop_adapter(pane)
            told[pane] = f"The {TITLES[pane]} pane has no adapter now: {error}"
        _write(settings, others)


def apply(settings: Settings, lineup: Lineup, report: Callable[[str], None] = log.info) -> None:
    """Puts what was published into a line-up that was just loaded as the settings say."""
    with _lock:
        told = _problems[_file(settings)] = {}
        for pane, one in published(settings).items():
            report(f"Attaching the published adapter of {one.name}.")
            try:
                if _identity(one.model) != _identity(settings.model):
                    raise PublishingError(
                        f"it was trained on {Path(one.model).name}, and the panes show "
                        f"{Path(settings.model).name}."
                    )
                lineup.swap_adapter(pane, one.folder, shown=one.name)
            except QvlaError as error:
                told[pane] = (
                    f"The {TITLES[pane]} pane answers as the settings say, because the published "
                    f"adapter of {one.name} cannot be used: {error}"
                )
                log.warning("%s", told[pane])


def _identity(model: str) -> str:
    """The same for all spellings of one folder; a hub id as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _file(settings: Settings) -> Path:
    return settings.jobs.absolute() / FILE


def _write(settings: Settings, values: dict[str, Published]) -> None:
    path = _file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {pane: asdict(one) for pane, one in values.items()})
