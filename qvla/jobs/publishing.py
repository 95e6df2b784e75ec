"""Adapters of finished jobs in the panes of the Compare tab: in place of those of the settings, or
in panes of their own.

`published.json` among the jobs says which job answers in which pane, so that a restart changes
nothing. Where it cannot be done again, the pane answers as the settings say, or is not there, and
`problems` says why.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from qvla.captioning.contenders import NAME, TITLES, Contender, base_identity
from qvla.errors import QvlaError
from qvla.files import parse_json, write_json
from qvla.jobs.places import is_name
from qvla.methods.registry import KINDS
from qvla.settings import Settings

if TYPE_CHECKING:
    from qvla.captioning.lineup import Lineup

log = logging.getLogger(__name__)

FILE = "published.json"

_lock = threading.RLock()  # one change at a time: of the file, and of the line-up with it
_problems: dict[Path, dict[str, str]] = {}  # by the file


class PublishingError(QvlaError):
    """The adapter cannot be put into a pane, or taken back; the message says why."""


@dataclass(frozen=True)
class Published:
    """What answers in a pane: a job's adapter, and the base that it was made for.

    A pane of its own has a title, and the precision of its base; the panes of the settings have
    both from there.
    """

    job: str
    folder: str
    model: str
    title: str = ""
    precision: str = ""

    @property
    def name(self) -> str:
        return shown_name(self.job)


def pane_of(kind: str) -> str | None:
    """The pane in which adapters of a kind of recipe answer; None for what is no adapter."""
    found = KINDS.get(kind)
    if found is None or not found.method.is_adapter:
        return None
    return "qvla" if found.quantised else "adapter"


def pane_title(pane: str) -> str:
    """A pane as buttons and lists call it."""
    return f"{TITLES[pane]} pane" if pane in TITLES else "pane of its own"


def shown_name(job_id: str) -> str:
    """A job's short name, as panes and lists show it."""
    return f"job {job_id.rpartition('-')[2]}"


def published(settings: Settings, file: Path | None = None) -> dict[str, Published]:
    """What was published, by pane; a file that cannot be read says that nothing was."""
    try:
        values = parse_json((file or _file(settings)).read_bytes())
        return {pane: Published(**one) for pane, one in values.items() if NAME.fullmatch(pane)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
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
    pane, one = _to_publish(settings, job_id, recipe, folder)
    with _lock:
        lineup.swap_adapter(pane, folder, shown=one.name)
        _write(settings, {**published(settings), pane: one})
        _problems.get(_file(settings), {}).pop(pane, None)
    return pane


def add_pane(
    settings: Settings, lineup: Lineup, job_id: str, recipe: dict[str, Any], folder: Path
) -> str:
    """Puts a finished job's adapter into a further pane of its own, and returns its name.

    Raises PublishingError, LineupError when there are too many panes, or AdapterError, and then
    nothing has changed.
    """
    _, one = _to_publish(settings, job_id, recipe, folder)
    one = replace(
        one,
        title=f"{recipe['method']}, {one.name}",
        precision="nf4" if KINDS[recipe["method"]].quantised else settings.precision,
    )
    with _lock:
        others = published(settings)
        if any(other.job == job_id for other in others.values()):
            raise PublishingError("This adapter answers in a pane already: take it back first.")
        contender = _contender(_own_name(job_id), one)
        lineup.add(contender, shown=one.name)
        _write(settings, {**others, contender.name: one})
    return contender.name


def add_to_bank(
    settings: Settings, lineup: Lineup, job_id: str, recipe: dict[str, Any], folder: Path
) -> str:
    """Copies a finished job's adapter into the bank, and returns the task's name.

    There it stays, whatever becomes of the job. Raises PublishingError.
    """
    _to_publish(settings, job_id, recipe, folder)
    if settings.bank is None:
        raise PublishingError("There is no bank: name a folder for it by QVLA_BANK.")
    name = _own_name(job_id)
    with _lock:
        if name in lineup.names():
            raise PublishingError("This adapter has a pane of its own: take it back first.")
        new, place = settings.bank / f".{name}", settings.bank / name
        if place.exists():
            raise PublishingError(f"The bank has a task {name} already.")
        try:
            shutil.rmtree(new, ignore_errors=True)  # what a copy that was cut off left
            shutil.copytree(folder, new)
            new.rename(place)
        except OSError as error:
            raise PublishingError(f"The bank {settings.bank} cannot be written to.") from error
    return name


def take_back(settings: Settings, lineup: Lineup, pane: str) -> None:
    """The pane answers as the settings say again: with their adapter, or not at all.

    A pane of its own is taken away.
    """
    with _lock:
        others = published(settings)
        if others.pop(pane, None) is None:
            raise PublishingError("Nothing is published in that pane.")
        own = settings.adapter if pane == "adapter" else settings.nf4_adapter
        told = _problems.setdefault(_file(settings), {})
        told.pop(pane, None)
        try:
            if pane not in TITLES:
                if pane in lineup.names():  # where it could not be put there, it is not
                    lineup.remove(pane)
            elif own is None:
                lineup.drop_adapter(pane)
            else:
                lineup.swap_adapter(pane, own)
        except QvlaError as error:
            if pane not in TITLES:
                raise
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
                if base_identity(one.model) != base_identity(settings.model):
                    raise PublishingError(
                        f"it was trained on {Path(one.model).name}, and the panes show "
                        f"{Path(settings.model).name}."
                    )
                if pane in TITLES:
                    lineup.swap_adapter(pane, one.folder, shown=one.name)
                else:
                    lineup.add(_contender(pane, one), shown=one.name)
            except QvlaError as error:
                stands = "A pane is missing"
                if pane in TITLES:
                    stands = f"The {TITLES[pane]} pane answers as the settings say"
                told[pane] = (
                    f"{stands}, because the published adapter of {one.name} cannot be used: {error}"
                )
                log.warning("%s", told[pane])


def _to_publish(
    settings: Settings, job_id: str, recipe: dict[str, Any], folder: Path
) -> tuple[str, Published]:
    """The pane of its method, and what will answer there. Raises PublishingError."""
    pane, model = pane_of(recipe["method"]), str(recipe["model"])
    if pane is None:
        raise PublishingError(
            "All weights of the base were trained, so this is a model of its own and no adapter: "
            f"serve it with QVLA_MODEL={folder} python -m qvla serve."
        )
    if base_identity(model) != base_identity(settings.model):
        raise PublishingError(
            f"It was trained on {Path(model).name} and the panes show {Path(settings.model).name}: "
            f"serve that model with QVLA_MODEL={model} to publish it."
        )
    return pane, Published(job_id, str(folder), model)


def put_back(settings: Settings, file: Path) -> None:
    """Has what was published elsewhere, by the same file there, answer here: the jobs that are here
    too, where nothing is published yet.
    """
    if _file(settings).exists() or not file.is_file():
        return
    there = published(settings, file)
    folders = {pane: settings.jobs.absolute() / one.job / "adapter" for pane, one in there.items()}
    found = {
        pane: replace(one, folder=str(folders[pane]))
        for pane, one in there.items()
        if is_name(one.job) and folders[pane].is_dir()
    }
    _write(settings, found)


def _own_name(job_id: str) -> str:
    return f"job-{job_id.rpartition('-')[2]}"


def _contender(pane: str, one: Published) -> Contender:
    """Who answers in a pane of its own. Raises PublishingError for what cannot be in the file."""
    try:
        return Contender(
            name=pane,
            title=one.title,
            base=one.model,
            precision=one.precision,
            adapter=one.folder,
            needs_adapter=True,
        )
    except ValidationError as error:
        raise PublishingError(f"{FILE} says of it what cannot be.") from error


def _file(settings: Settings) -> Path:
    return settings.jobs.absolute() / FILE


def _write(settings: Settings, values: dict[str, Published]) -> None:
    path = _file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {pane: asdict(one) for pane, one in values.items()})
