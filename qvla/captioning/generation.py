"""One generation on one backbone: photos that some of its contenders answer about."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from qvla.captioning.cohort import Row
from qvla.captioning.decoding import Decoding
from qvla.captioning.prompts import decode, is_question
from qvla.captioning.shared_backbone import Batch, SharedBackbone
from qvla.errors import QvlaError

Bring = Callable[[SharedBackbone, Sequence[str]], Mapping[str, str]]
UNFORESEEN = "Captioning failed for a reason that stands in the log; try another photo."

log = logging.getLogger(__name__)

Tell = Callable[[dict[str, "Partial"]], None]


class CaptioningError(QvlaError):
    """A caption could not be made; the message says why and what to do."""


class OutOfMemoryError(CaptioningError):
    """The batch did not fit into memory; a smaller one may."""


class Cancelled(Exception):
    """The one who asked for the captions went away."""


@dataclass(frozen=True)
class Caption:
    """One variant's answer to one photo.

    `tokens` counts every generated token, the end of text included. Times are in seconds of work
    from the decoded photo, before resizing, to the token, with the device synchronised: the vision
    tower's, and those of the steps of its batch. Waiting for another request is not counted, nor
    for another backbone that works in turn on the same device. `seconds` ends with this row's own
    last token, though the batch may have gone on. With beams no row is known before the end:
    `seconds` is then the batch's, and `seconds_to_first_token` that of the first step.

    `log_probability` is the mean over the tokens of the natural logarithm of what the model gave
    each, before temperature and top-p; None with beams. `unfamiliar` is whether the photo is unlike
    those that the base was trained on (`familiarity`); None where that is not known.
    """

    text: str
    tokens: int
    seconds_to_first_token: float
    seconds: float
    log_probability: float | None = None
    unfamiliar: bool | None = None


@dataclass(frozen=True)
class Partial:
    """A caption on its way; `error` is a sentence for the user, and then nothing more comes."""

    text: str = ""
    tokens: int = 0
    seconds_to_first_token: float | None = None
    seconds: float = 0.0
    done: bool = False
    error: str | None = None
    log_probability: float | None = None  # of a caption that is done, see `Caption`
    unfamiliar: bool | None = None  # see `Caption`


class Generation:
    """What is asked of one backbone, and its answers as they come.

    Variants whose adapters mix are rows of one batch: all images of the first, then of the next.
    Other adapters are batches of their own. The vision tower and the projector run once for all
    that leave them as they are. A `Desk` does the work.
    """

    def __init__(
        self,
        shared: SharedBackbone,
        variants: list[str],
        images: Sequence[Image.Image],
        decoding: Decoding,
        prefixes: str | Sequence[str],
        bring: Bring | None = None,
        tell: Tell | None = None,
        *,
        changes: Callable[[SharedBackbone, Sequence[str]], bool] | None = None,
    ) -> None:
        """`prefixes` are one for all images or one an image. An image that is there several times,
        the same object, is looked at once. `bring` loads what of the variants is not in memory yet,
        and says why one cannot be; `changes` tells whether it has any to load. `tell` hears of the
        first image's answers after every token, and of their ends.
        """
        self.shared = shared
        self.variants = variants
        self.images = images
        self.decoding = decoding
        self.prefixes = [prefixes] * len(images) if isinstance(prefixes, str) else list(prefixes)
        self.bring = bring
        self.tell = tell
        self._changes = changes
        self.cancelled = threading.Event()
        self.ended = threading.Event()  # all is answered, or it has failed
        self.able: list[str] = []  # the variants that answer
        self.rows: dict[tuple[str, int], Row] = {}  # by variant and image
        self.unfamiliar: Sequence[bool | None] = [None] * len(images)  # see `Caption`
        self._answers: dict[tuple[str, int], Caption] = {}
        self._error: Exception | None = None
        self._told = {name: Partial() for name in variants}

    # ---- for the one who asked ------------------------------------------------------------------

    def result(self) -> dict[str, list[Caption]]:
        """The captions of each variant, once it has `ended`. Raises what kept them from coming."""
        if self._error is not None:
            raise self._error
        if self.cancelled.is_set():
            raise Cancelled
        return {
            name: [self._answers[name, index] for index in range(len(self.images))]
            for name in self.able
        }

    @property
    def size(self) -> int:
        """Rows of a batch that it takes."""
        return len(self.variants) * len(self.images)

    @property
    def changes_adapters(self) -> bool:
        """Whether it loads adapters first, so that nothing else may be under way then."""
        return self._changes is not None and self._changes(self.shared, self.variants)

    # ---- for the desk ---------------------------------------------------------------------------

    def passes(self) -> list[tuple[Batch, list[int]]]:
        """Batches with the images of each: all, unless questions are for adapters of their own."""
        images = range(len(self.images))
        if not self.shared.parts_questions(self.able):
            return [(batch, list(images)) for batch in self.shared.batches(self.able)]
        return [
            (batch, asked)
            for questions in (False, True)
            if (asked := [row for row in images if is_question(self.prefixes[row]) == questions])
            for batch in self.shared.batches(self.able, questions=questions)
        ]

    def hear(self) -> None:
        """Takes in the tokens that came, and tells of them."""
        for (name, index), row in list(self.rows.items()):
            if row.done:
                del self.rows[name, index]
                self.answer(name, index, self._caption(row))
            elif index == 0 and self.tell is not None:  # else nobody reads half a caption
                self._say(name, self._partial(row))
        if not self.rows and len(self._answers) == len(self.able) * len(self.images):
            self.ended.set()

    def text(self, tokens: Sequence[int]) -> str:
        """Generated tokens as text."""
        backbone = self.shared.loaded
        return decode(backbone.processor, torch.tensor([tokens]), backbone.model.config)[0]

    def answer(self, name: str, index: int, caption: Caption) -> None:
        """One caption has come to its end."""
        caption = replace(caption, unfamiliar=self.unfamiliar[index])
        self._answers[name, index] = caption
        if index == 0:
            self._say(name, finished(caption))

    def lack(self, faults: Mapping[str, str]) -> None:
        """Some variants cannot answer, and why, in a sentence each; the others go on if told of."""
        self.able = [name for name in self.variants if name not in faults]
        if faults and self.tell is None:
            raise CaptioningError(next(iter(faults.values())))
        for name, fault in faults.items():
            self._say(name, Partial(done=True, error=fault))

    def fail(self, error: Exception) -> None:
        """Nothing more comes: tells why, of every variant that has not come to its end."""
        self._error = error
        if self.tell is not None and not isinstance(error, Cancelled):
            sentence = str(error)
            if not isinstance(error, QvlaError):
                log.error("captioning failed for %s", ", ".join(self.variants), exc_info=error)
                sentence = UNFORESEEN
            for name, last in self._told.items():
                if not last.done:
                    self._say(name, replace(last, done=True, error=sentence))
        self.rows.clear()
        self.ended.set()

    def _say(self, name: str, partial: Partial) -> None:
        if self.tell is not None and partial != self._told[name]:
            self._told[name] = partial
            self.tell({name: partial})

    def _caption(self, row: Row) -> Caption:
        count = len(row.tokens)
        text = self.text(row.tokens)
        return Caption(text, count, row.first, row.newest, row.surprise / -count)

    def _partial(self, row: Row) -> Partial:
        text, unfamiliar = self.text(row.tokens), self.unfamiliar[0]
        return Partial(text, len(row.tokens), row.first, row.newest, unfamiliar=unfamiliar)


def finished(caption: Caption) -> Partial:
    """A caption that has come to its end."""
    return Partial(
        *(caption.text, caption.tokens, caption.seconds_to_first_token, caption.seconds),
        done=True,
        log_probability=caption.log_probability,
        unfamiliar=caption.unfamiliar,
    )
