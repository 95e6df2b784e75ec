"""Loads the line-up in a background thread, so that the page is there before the weights are."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from qvla.captioning.bank import Bank, bank_of
from qvla.captioning.contenders import Contender, contenders_of, default_contenders
from qvla.errors import QvlaError
from qvla.settings import EMBEDDED_MODEL, Settings

if TYPE_CHECKING:
    from qvla.captioning.lineup import Lineup

log = logging.getLogger(__name__)

Load = Callable[[Callable[[str], None]], "Lineup"]
Then = Callable[[Settings, "Lineup", Callable[[str], None]], None]


class Phase(StrEnum):
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class LoadState:
    """How far loading has come. `message` is what is being done now, or why it failed."""

    phase: Phase
    message: str
    seconds: float


class NotReadyError(QvlaError):
    """The weights could not be loaded; the message says why."""


class LineupLoader:
    """Holds the line-up from before it exists. Every method may be called from any thread."""

    def __init__(
        self,
        load: Load,
        contenders: Sequence[Contender] | None = None,
        bank: Bank | None = None,
    ) -> None:
        """`load` is given a function to report each step to, and returns the line-up.

        `contenders` and `bank` are those that the line-up will have, the default three and none
        unless they are given.
        """
        self.bank = bank
        self._planned = tuple(contenders or default_contenders(EMBEDDED_MODEL))
        self._load = load
        self._changed = threading.Condition()
        self._lineup: Lineup | None = None
        self._phase = Phase.LOADING
        self._message = "Weights have not been asked for yet."
        self._started = time.monotonic()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, settings: Settings, *, then: Then | None = None) -> LineupLoader:
        """Loads what the settings name; `then` may still change the line-up before it is shown."""

        contenders, bank = contenders_of(settings), bank_of(settings)

        def load(progress: Callable[[str], None]) -> Lineup:
            progress("Importing PyTorch and Transformers.")
            from qvla.captioning.engine import rehearse
            from qvla.captioning.lineup import Lineup

            lineup = Lineup.of(
                contenders,
                device=settings.device,
                nf4_embeddings=settings.nf4_embeddings,
                device_lock=settings.device_lock,
                graphs=settings.graphs,
                bank=bank,
                progress=progress,
            )
            if then is not None:
                then(settings, lineup, progress)
            try:
                rehearse(lineup)
            except QvlaError as error:  # who asks will be told
                log.warning("The first steps could not be tried: %s", error)
            return lineup

        return cls(load, contenders, bank)

    def start(self) -> LineupLoader:
        """Starts loading, or starts it again after a failure; otherwise does nothing."""
        with self._changed:
            if self._lineup is not None or (self._thread is not None and self._thread.is_alive()):
                return self
            self._phase, self._message = Phase.LOADING, "Starting."
            self._started = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="lineup-loader", daemon=True)
            self._thread.start()
        return self

    def load(self) -> LineupLoader:
        """Loads in this very thread, and returns when that is done or has failed."""
        self._run()
        return self

    def state(self) -> LoadState:
        with self._changed:
            return LoadState(self._phase, self._message, time.monotonic() - self._started)

    @property
    def lineup(self) -> Lineup | None:
        """The line-up once it is loaded, else None."""
        return self._lineup

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """Those of the line-up as it is now, or as it will be once it is loaded."""
        lineup = self._lineup
        return self._planned if lineup is None else lineup.contenders()

    @property
    def tasks(self) -> tuple[Contender, ...]:
        """What the bank offers besides."""
        if self.bank is None:
            return ()
        return tuple(self.bank.tasks([one.name for one in self.contenders]).values())

    def wait(self, timeout: float | None = None) -> Lineup | None:
        """The line-up, waiting for it up to `timeout` seconds; None when that was too short.

        Raises NotReadyError when loading failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._phase is not Phase.LOADING, timeout)
            if self._phase is Phase.FAILED:
                raise NotReadyError(self._message)
            return self._lineup

    def _run(self) -> None:
        try:
            lineup = self._load(self._report)
        except QvlaError as error:
            log.error("%s", error)
            self._finish(Phase.FAILED, str(error))
        except Exception as error:
            log.exception("The weights could not be loaded.")
            self._finish(
                Phase.FAILED,
                f"The weights could not be loaded because of an unforeseen {type(error).__name__}; "
                "the app's log has the details.",
            )
        else:
            self._finish(Phase.READY, "All weights are loaded.", lineup)

    def _report(self, message: str) -> None:
        with self._changed:
            self._message = message
            self._changed.notify_all()

    def _finish(self, phase: Phase, message: str, lineup: Lineup | None = None) -> None:
        with self._changed:
            self._phase, self._message, self._lineup = phase, message, lineup
            self._thread = None
            self._changed.notify_all()
