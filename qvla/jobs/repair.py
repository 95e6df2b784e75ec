"""A damaged store is set aside: its file keeps all that it holds under another name, and an empty
one takes its place. The folders of its jobs stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from qvla.jobs.errors import DamagedStoreError, JobError
from qvla.jobs.places import Places, places_of
from qvla.jobs.queue import JobQueue
from qvla.jobs.sqlite import BESIDE, file_of
from qvla.jobs.store import Store
from qvla.settings import Settings


def set_aside(settings: Settings) -> list[str]:
    """Renames the files of store and queue that are damaged, and returns their new names.

    Raises JobError when none is, or none can be renamed.
    """
    places = places_of(settings)
    found = [(file_of(places.database_url), _try_store), (places.queue, _try_queue)]
    moved = [
        _rename(file)
        for file, use in found
        if file is not None and file.exists() and _is_damaged(use, places)
    ]
    if not moved:
        raise JobError("The store of jobs is not damaged, so nothing was set aside.")
    Store(places.database_url).close()  # at once: workers that wait for it go on
    return moved


def _try_store(places: Places) -> None:
    store = Store(places.database_url)
    try:
        store.all()
        store.hidden()
    finally:
        store.close()


def _try_queue(places: Places) -> None:
    JobQueue(places).names()


def _is_damaged(use: Callable[[Places], None], places: Places) -> bool:
    try:
        use(places)
    except DamagedStoreError:
        return True
    return False


def _rename(file: Path) -> str:
    new = file.with_name(f"{file.stem}.aside-{datetime.now(UTC):%Y%m%d-%H%M%S}{file.suffix}")
    try:
        for end in ("", *BESIDE):  # the last of what was written may still be in the file beside
            part = file.with_name(file.name + end)
            if part.exists():
                os.rename(part, new.with_name(new.name + end))
    except OSError as error:
        raise JobError(f"{file.name} cannot be renamed ({error.strerror}).") from error
    return new.name
