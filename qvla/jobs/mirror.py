"""Adapters and records in a repository on the hub as well as here (`QVLA_STORE=hub:owner/name`).

They are written there by commits, in the background and in order, and again until it succeeds; what
is not there yet, `problems` tells. At a start with nothing here, as on a Space without persistent
storage, they are fetched. A job that is deleted here is deleted there too. What was written before
stands in `.mirror.json` in QVLA_HOME.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from qvla import commits
from qvla.errors import QvlaError
from qvla.files import parse_json, write_json
from qvla.jobs import mirror_files
from qvla.jobs.mirror_files import Item
from qvla.jobs.places import places_of
from qvla.jobs.store import Store
from qvla.settings import Settings
from qvla.words import counted

log = logging.getLogger(__name__)

FILE = ".mirror.json"
EVERY = 10.0  # seconds between looks at what is new
LONGEST_PAUSE = 300.0  # seconds between tries while it cannot be written

LOST = (
    "What is made here is gone when this Space starts anew: attach storage and set QVLA_HOME to a "
    "folder of it, or name a repository by QVLA_STORE=hub:owner/name."
)

_problems: dict[str, str] = {}  # by the repository, of this process


class Mirror:
    """Made by `mirror_of`; nothing is fetched or written before it is told to. `pauses` are the
    seconds between tries of one commit.
    """

    def __init__(
        self, settings: Settings, repository: str, pauses: Sequence[float] = commits.PAUSES
    ) -> None:
        self._settings, self._repository, self._pauses = settings, repository, pauses
        self._file = settings.home.absolute() / FILE
        self._marks = self._read_marks()
        self._to_fetch = self._marks is None and mirror_files.is_empty(settings)
        self._is_made = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._writing = threading.Lock()

    def fetch(self) -> None:
        """Fetches what the repository keeps, where there is nothing here. Never raises: what goes
        wrong is told by `problems`, and tried again before anything is written.
        """
        try:
            if self._to_fetch:
                self._fetch()
            _problems.pop(self._repository, None)
        except (QvlaError, OSError) as error:
            self._say(f"What {self._repository} keeps could not be fetched: {error}")

    def push(self) -> bool:
        """Writes what is new; False when something is left, which `problems` tells."""
        with self._writing:
            if self._to_fetch:
                self.fetch()
            if self._to_fetch:
                return False
            left = 0
            try:
                changes = self._changes()
                left = sum(len(operations) for operations, _ in changes)
                for operations, marks in changes:
                    self._commit(operations)
                    self._keep(marks)
                    left -= len(operations)
            except (QvlaError, OSError) as error:
                what = counted(left, "file") if left else "What is new"
                verb = "are" if left > 1 else "is"
                self._say(f"{what} {verb} not in {self._repository} yet: {error}")
                return False
            _problems.pop(self._repository, None)
            return True

    def start(self) -> None:
        """Writes in the background from now on."""
        self._thread = threading.Thread(target=self._go_on, name="mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends that, once what is new by then was tried to be written, without patience."""
        self._closed.set()
        self._pauses = ()
        if self._thread is not None:
            self._thread.join()
        self.push()

    def _go_on(self) -> None:
        pause = EVERY
        while not self._closed.wait(pause):
            pause = EVERY if self.push() else min(2 * pause, LONGEST_PAUSE)

    def _fetch(self) -> None:
        api, repository = commits.hub(), self._repository
        # The app waits for this at its start.
        manner: dict[str, Any] = {"pauses": self._pauses[:2], "reading": True}
        there = commits.asking(lambda: api.repo_exists(repository), repository, **manner)
        names = []
        if there:
            names = commits.asking(lambda: api.list_repo_files(repository), repository, **manner)
        wanted = [name for name in names if mirror_files.is_ours(name)]
        if wanted:
            home = self._settings.home.absolute()
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home, prefix=".fetched-") as place:
                commits.asking(
                    lambda: api.snapshot_download(
                        repository, allow_patterns=wanted, local_dir=place
                    ),
                    repository,
                    **manner,
                )
                with self._store() as store:
                    back = mirror_files.take_in(Path(place), self._settings, store)
            log.info("%s came back from %s.", counted(back, "job"), repository)
        self._to_fetch = False
        with self._store() as store:
            items = [item for group in mirror_files.groups(self._settings, store) for item in group]
        self._keep({item.name: item.mark for item in items if item.name in set(wanted)})

    def _changes(self) -> list[tuple[list[Any], dict[str, str | None]]]:
        """The commits to make: their operations, and the marks that are true after each."""
        marks = self._marks or {}
        found: list[tuple[list[Any], dict[str, str | None]]] = []
        with self._store() as store:
            groups = list(mirror_files.groups(self._settings, store))
        for group in groups:
            new = [item for item in group if marks.get(item.name) != item.mark]
            if new:
                after: dict[str, str | None] = {item.name: item.mark for item in new}
                found.append(([_add(item) for item in new], after))
        for job_id in self._deleted():
            gone: dict[str, str | None] = {
                name: None for name in marks if mirror_files.job_in(name) == job_id
            }
            found.append(([CommitOperationDelete(f"jobs/{job_id}/", is_folder=True)], gone))
        return found

    def _deleted(self) -> list[str]:
        """Jobs that were kept and whose folders are gone; none while the folder of all is gone."""
        jobs = self._settings.jobs
        kept = {mirror_files.job_in(name) for name in self._marks or {}}
        if not jobs.is_dir():
            return []
        return sorted(one for one in kept if one is not None and not (jobs / one).exists())

    def _commit(self, operations: list[Any]) -> None:
        api = commits.hub()
        if not self._is_made:
            commits.asking(
                lambda: api.create_repo(self._repository, private=True, exist_ok=True),
                self._repository,
                pauses=self._pauses,
            )
            self._is_made = True
        message = "What QVLA has made"
        commits.commit(api, self._repository, operations, message, pauses=self._pauses)

    def _store(self) -> AbstractContextManager[Store]:
        return closing(Store(places_of(self._settings).database_url))

    def _keep(self, marks: dict[str, Any]) -> None:
        """Adds to what is known to be in the repository; None takes a name away."""
        marks = {**(self._marks or {}), **marks}
        self._marks = {name: mark for name, mark in marks.items() if mark is not None}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._file, {"repository": self._repository, "marks": self._marks})

    def _read_marks(self) -> dict[str, str] | None:
        """None where nothing is known of this repository, which is then written to anew."""
        try:
            values = parse_json(self._file.read_bytes())
            known = dict(values["marks"])
            return known if values["repository"] == self._repository else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _say(self, sentence: str) -> None:
        sentence = f"{sentence} It is tried again."
        if _problems.get(self._repository) != sentence:
            log.warning("%s", sentence)
        _problems[self._repository] = sentence


def mirror_of(settings: Settings) -> Mirror | None:
    """What the setting `store` names; None where everything is kept here alone."""
    if settings.store is None:
        return None
    return Mirror(settings, settings.store.removeprefix("hub:"))


def problems(settings: Settings) -> list[str]:
    """Why something is not in the repository yet, or will be lost without one, in a sentence."""
    if settings.store is None:
        on_space = bool(os.environ.get("SPACE_ID"))
        return [LOST] if on_space and not _is_on_storage(settings.home) else []
    repository = settings.store.removeprefix("hub:")
    return [_problems[repository]] if repository in _problems else []


def _is_on_storage(folder: Path) -> bool:
    """Whether a disk of its own is attached at the folder or above it."""
    folder = folder.absolute()
    return any(os.path.ismount(one) for one in (folder, *folder.parents[:-1]))


def _add(item: Item) -> CommitOperationAdd:
    content = item.content if isinstance(item.content, bytes) else str(item.content)
    return CommitOperationAdd(item.name, content)
