"""Every question about every photo, asked once, with each answer kept as soon as it is there."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qvla.curation.endpoint import (
    Endpoint,
    KeyLimitedError,
    KeyRefusedError,
    QuestionRefusedError,
    ServerBusyError,
    data_url,
)
from qvla.curation.keys import LONGEST_REST, CurationError, KeyPool
from qvla.curation.rows import AnswerFile, Row
from qvla.data.imagery import open_image
from qvla.data.layouts import photos_in
from qvla.errors import QvlaError
from qvla.progress import Progress, progress

log = logging.getLogger(__name__)

TRIES = 6  # of a question whose endpoint is busy
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds, doubled with each try in a row
UNANSWERED_MOST = 10  # questions in a row that may have no answer before the run ends


@dataclass(frozen=True)
class Waits:
    """How the run waits; tests give their own."""

    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random  # from 0 to 1

    def backoff(self, tries: int) -> float:
        """Seconds before the next try, at most doubled with each, and half of them by chance, so
        that many who were turned away together do not come back together.
        """
        longest = min(FIRST_WAIT * 2.0**tries, LONGEST_WAIT)
        return longest * (0.5 + 0.5 * self.jitter())


@dataclass
class Tally:
    """What came of a run, in numbers of photos and of questions."""

    unreadable: int = 0
    unanswered: int = 0
    answered: int = 0
    wordy: int = 0  # answers of more than one word


@dataclass
class Curation:
    """One run. Each question is asked with the key whose turn it is."""

    endpoint: Endpoint
    keys: KeyPool
    file: AnswerFile
    waits: Waits = field(default_factory=Waits)
    tally: Tally = field(default_factory=Tally)
    _in_a_row: int = field(default=0, init=False)  # questions without an answer

    def run(self, folder: Path, questions: Sequence[str]) -> Tally:
        """Asks what the file has no answer to yet. Raises AllKeysExhausted and CurationError; what
        was answered before is in the file, and another run goes on from there.
        """
        photos = _photos(folder)
        done = sum((name, one) in self.file.done for name, _ in photos for one in questions)
        with progress(len(photos) * len(questions), "Asking about photos", done) as bar:
            for name, path in photos:
                left = [one for one in questions if (name, one) not in self.file.done]
                if left:
                    self._ask_about(name, path, left, bar)
        return self.tally

    def _ask_about(self, name: str, path: Path, questions: Sequence[str], bar: Progress) -> None:
        try:
            photo = data_url(open_image(path))
        except QvlaError as error:
            log.error("%s: %s", name, error)
            self.tally.unreadable += 1
            bar.step(len(questions))
            return
        for question in questions:
            try:
                answer = self._answer(photo, question)
            except (QuestionRefusedError, ServerBusyError) as error:
                log.error("%s, %r: %s.", name, question, error)
                self.tally.unanswered += 1
                self._in_a_row += 1
                if self._in_a_row >= UNANSWERED_MOST:
                    raise CurationError(
                        f"{self._in_a_row} questions in a row had no answer, so the run ends: "
                        "what was answered is kept, and the same command goes on."
                    ) from error
            else:
                self._in_a_row = 0
                self.file.add(Row(_id(name, question), question, answer, name))
                self.tally.answered += 1
                self.tally.wordy += " " in answer
            bar.step()

    def _answer(self, photo: str, question: str) -> str:
        """Raises AllKeysExhausted, QuestionRefusedError, and ServerBusyError after TRIES."""
        tries = 0
        while True:
            key = self.keys.take()
            try:
                answer = self.endpoint.ask(photo, question, key.secret)
            except KeyRefusedError as error:
                self.keys.drop(key, str(error))
            except KeyLimitedError as error:
                told = error.seconds
                self.keys.rest(key, self.waits.backoff(key.limited) if told is None else told)
            except ServerBusyError as error:
                tries += 1
                if tries >= TRIES:
                    raise
                wait = max(self.waits.backoff(tries - 1), error.seconds or 0.0)
                self.waits.sleep(min(wait, LONGEST_REST))
            else:
                self.keys.worked(key)
                return answer


def _photos(folder: Path) -> list[tuple[str, Path]]:
    """The photos of a folder and those within, by their names from there on."""
    if not folder.is_dir():
        raise CurationError(f"There is no folder {folder}: name the one with the photos.")
    found = [(path.relative_to(folder).as_posix(), path) for path in photos_in(folder)]
    usable = [(name, path) for name, path in found if name.isprintable()]
    if len(usable) < len(found):
        log.warning("%d photos are left out: rename what has odd signs.", len(found) - len(usable))
    if not usable:
        raise CurationError(f"There is no photo in {folder}: name a folder with some.")
    return usable


def _id(name: str, question: str) -> str:
    """The same in every run: eleven digits of the hash of what is asked about which photo."""
    return hashlib.sha256(f"{name}\n{question}".encode()).hexdigest()[:11]
