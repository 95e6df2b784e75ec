"""Which adapters of the bank are in memory: loaded when first asked for, the oldest use dropped."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qvla.captioning.contenders import Contender
from qvla.captioning.shared_backbone import SharedBackbone
from qvla.models.adapters import CONFIG, WEIGHTS, AdapterError
from qvla.models.errors import BackboneError

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int], ...]  # of an adapter's files: sizes, and times of change


@dataclass(frozen=True)
class Resident:
    """A task whose adapter is on a backbone, and takes so many bytes there."""

    task: str
    shared: SharedBackbone
    stamp: Stamp
    nbytes: int


class Residents:
    """Adapters of the bank on their backbones, in the order of their last use.

    Whoever generates holds the lock of a backbone, and adapters come and go under that lock alone:
    so none that is in use is ever dropped.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, int], Resident] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def names(self) -> list[str]:
        """The tasks that are in memory, the one whose use lies back furthest first."""
        with self._lock:
            return [one.task for one in self._held.values()]

    def size(self, task: str) -> int:
        """Bytes of a task's adapter in memory; 0 for one that was never there."""
        return self._sizes.get(task, 0)

    def has(self, shared: SharedBackbone, task: Contender) -> bool:
        """Whether a task is in memory as its files are now."""
        with self._lock:
            held = self._held.get((task.name, id(shared)))
        return held is not None and held.stamp == _stamp(Path(str(task.adapter)))

    def bring(self, shared: SharedBackbone, tasks: Sequence[Contender]) -> dict[str, str]:
        """Loads what of these tasks is not there; the caller holds the backbone's lock.

        Returns why a task cannot answer, in a sentence, by its name. The limit may be passed by one
        adapter, for as long as it takes to see how large it is.
        """
        faults = {}
        wanted = {(task.name, id(shared)) for task in tasks}
        for task in tasks:
            try:
                self._bring(shared, task, wanted)
            except (AdapterError, BackboneError) as error:
                log.warning("%s is not available: %s", task.title, error)
                faults[task.name] = str(error)
        return faults

    def _bring(self, shared: SharedBackbone, task: Contender, wanted: set[tuple[str, int]]) -> None:
        key, stamp = (task.name, id(shared)), _stamp(Path(str(task.adapter)))
        with self._lock:
            if key in self._held and self._held[key].stamp == stamp:
                self._held.move_to_end(key)
                return
        shared.load()
        shared.attach(task.name, str(task.adapter))
        nbytes = shared.adapter_bytes[task.name]
        with self._lock:
            self._sizes[task.name] = nbytes
            self._held[key] = Resident(task.name, shared, stamp, nbytes)
            self._held.move_to_end(key)
            if self._make_room(shared, wanted):
                return
            del self._held[key]
        shared.detach(task.name)
        raise AdapterError(
            f"The adapter of {task.title} takes {nbytes / 2**20:.1f} MB, for which the bank has no "
            f"room now: ask for fewer tasks at once, or let it hold more than "
            f"{self.limit_bytes / 2**20:.1f} MB (QVLA_BANK_MB)."
        )

    def _make_room(self, shared: SharedBackbone, wanted: set[tuple[str, int]]) -> bool:
        """Drops the oldest that nobody uses until the rest fits; False when too much is in use."""
        for key, one in list(self._held.items()):
            if sum(one.nbytes for one in self._held.values()) <= self.limit_bytes:
                break
            if key in wanted:
                continue
            # Never waits for another backbone: its holder may be waiting here.
            own = one.shared is shared
            if own or one.shared.lock.acquire(blocking=False):
                try:
                    one.shared.detach(one.task)
                finally:
                    if not own:
                        one.shared.lock.release()
                del self._held[key]
                log.info("The adapter of %s made room for others.", one.task)
        return sum(one.nbytes for one in self._held.values()) <= self.limit_bytes


def _stamp(folder: Path) -> Stamp:
    """What tells an adapter from another that was put into its folder since."""
    stamp = []
    with suppress(OSError):  # reading it will say what is wrong
        for name in (CONFIG, WEIGHTS):
            found = (folder / name).stat()
            stamp.append((found.st_size, found.st_mtime_ns))
    return tuple(stamp)
