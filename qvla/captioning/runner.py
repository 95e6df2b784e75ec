"""Who computes: one thread for every device, or on CUDA for every backbone.

Generations that wait are begun together, and join those under way between two tokens, so that many
visitors are answered hardly slower than one. On the CPU the backbones take their steps in turn: two
threads that compute would each bring a pool of threads for matrix products, and two pools on the
same cores take twice as long as one after the other. Two threads with a core each took as long as
one after the other too (0.99, embedded model): steps that small are Python's, one at a time.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from qvla.captioning.desk import Desk
from qvla.captioning.generation import Cancelled, Generation
from qvla.captioning.shared_backbone import SharedBackbone

IDLE = 1.0  # seconds after which a thread without work ends; the next generation starts another
POLL = 0.1  # seconds that it waits for a backbone that somebody else holds
MOST_ROWS = 128  # under way on a backbone before others have to wait, unless one asks for more

log = logging.getLogger(__name__)


def runner_of(shared: SharedBackbone) -> Runner:
    """Who computes for a backbone: on the CPU one for all there are."""
    if shared.device == "cpu":
        return _OF_CPU
    with _LOCK:
        return _OF_BACKBONE.setdefault(shared, Runner())


class Runner:
    """Answers generations in one thread of its own, which lives while there is work."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Without a thread, and with nothing to do."""
        self._news = threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._thread: threading.Thread | None = None
        self._desks: dict[int, Desk] = {}  # those in use, by the identity of the backbone

    def submit(self, generation: Generation) -> None:
        """Has it answered; `ended` tells when."""
        with self._news:
            self._waiting.append(generation)
            self._news.notify()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="captions", daemon=True)
                self._thread.start()

    def waiting(self, shared: SharedBackbone) -> int:
        """Generations that wait for a backbone."""
        with self._news:
            return sum(one.shared is shared for one in self._waiting)

    def _serve(self) -> None:
        while True:
            with self._news:
                if not self._waiting and not self._desks:
                    self._news.wait(IDLE)
                    if not self._waiting:
                        self._thread = None
                        return
                waiting = [one.shared for one in self._waiting]
            waiting += [desk.shared for desk in self._desks.values()]
            for shared in dict.fromkeys(waiting):
                try:
                    self._turn(shared)
                except Exception as error:  # a fault of ours, which must not end all captions
                    log.exception("captioning failed on %s", shared.model)
                    self._end(shared, error)

    def _turn(self, shared: SharedBackbone) -> None:
        """One step on a backbone, after those who wait for it have been let in."""
        desk = self._desks.get(id(shared))
        if desk is None:
            if shared.lock.wanted:  # somebody who would wait for ever behind a stream of visitors
                time.sleep(POLL / 100)
                return
            desk = Desk(shared)
            if not desk.open(0 if self._desks else POLL):
                self._turn_away(lambda one: one.cancelled.is_set(), Cancelled())
                return
            self._desks[id(shared)] = desk
        begun = [] if shared.lock.wanted and desk.busy else self._let_in(desk)
        if begun:
            desk.begin(begun)
        if desk.busy:
            desk.step()
        if not desk.busy:
            self._close(shared)

    def _let_in(self, desk: Desk) -> Sequence[Generation]:
        """Those who wait for a desk and may begin now, in the order that they came."""
        taken: list[Generation] = []
        rows = desk.rows
        with self._news:
            for one in [one for one in self._waiting if one.shared is desk.shared]:
                alone = one.changes_adapters
                if (desk.busy or taken) and (alone or rows + one.size > MOST_ROWS):
                    break
                self._waiting.remove(one)
                taken.append(one)
                rows += one.size
                if alone:
                    break
        return taken

    def _end(self, shared: SharedBackbone, error: Exception) -> None:
        """Tells those who are answered on a backbone of a fault, or, if none are yet, who waits."""
        desk = self._desks.get(id(shared))
        if desk is not None:
            desk.abort(error)
            self._close(shared)
            return
        self._turn_away(lambda one: one.shared is shared, error)

    def _close(self, shared: SharedBackbone) -> None:
        desk = self._desks.pop(id(shared), None)
        if desk is not None:
            desk.close()

    def _turn_away(self, whom: Callable[[Generation], bool], error: Exception) -> None:
        """Of those who wait."""
        with self._news:
            gone = [one for one in self._waiting if whom(one)]
            for one in gone:
                self._waiting.remove(one)
        for one in gone:
            one.fail(error)


def _start_all_anew() -> None:
    """In a process that is forked, as on ZeroGPU: the threads and their work stayed behind, and
    what they held at that moment nobody there would give back.
    """
    global _LOCK
    _LOCK = threading.Lock()
    for runner in (_OF_CPU, *_OF_BACKBONE.values()):
        runner.start_anew()


_OF_CPU = Runner()
_OF_BACKBONE: WeakKeyDictionary[SharedBackbone, Runner] = WeakKeyDictionary()
_LOCK = threading.Lock()
os.register_at_fork(after_in_child=_start_all_anew)
