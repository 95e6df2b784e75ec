"""One generation on one backbone: its batches, every token's time, and when to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from transformers import LogitsProcessorList, StoppingCriteriaList

from qvla.captioning.decoding import Decoding
from qvla.captioning.prompts import decode, encode_images, encode_text, is_question, task_of
from qvla.captioning.shared_backbone import Batch, SharedBackbone
from qvla.captioning.sharing import captioning_turn
from qvla.captioning.watch import Row, Watch, up_to_end
from qvla.errors import QvlaError
from qvla.faults import is_out_of_memory
from qvla.methods.rows import names_of_rows
from qvla.models.backbone import Backbone
from qvla.models.families import family_of
from qvla.records.measure import clock

Bring = Callable[[SharedBackbone, Sequence[str]], Mapping[str, str]]

TURN_POLL = 0.1  # seconds between looks at whether a request that waits for its turn was cancelled


class CaptioningError(QvlaError):
    """A caption could not be made; the message says why and what to do."""


class OutOfMemoryError(CaptioningError):
    """The batch did not fit into memory; a smaller one may."""


@dataclass(frozen=True)
class Caption:
    """One variant's answer to one photo.

    `tokens` counts every generated token, the end of text included. Times are in seconds from the
    decoded photo, before resizing, to the token, with the device synchronised; waiting for
    another request is not counted. `seconds` ends with this row's own last token, though the batch
    may have gone on. With beams no row is known before the end: `seconds` is then the batch's, and
    `seconds_to_first_token` that of the first step.

    `log_probability` is the mean over the tokens of the natural logarithm of what the model gave
    each, before temperature and top-p; None with beams.
    """

    text: str
    tokens: int
    seconds_to_first_token: float
    seconds: float
    log_probability: float | None = None


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


class Cancelled(Exception):
    """The one who asked for the captions went away."""


class Generation:
    """One generation on one backbone, the lock of which it holds.

    Variants whose adapters mix are rows of one batch: all images of the first, then of the next.
    Other adapters are batches of their own, one after the other. The vision tower and the projector
    run once for all that leave them as they are.
    """

    def __init__(
        self,
        shared: SharedBackbone,
        variants: list[str],
        images: Sequence[Image.Image],
        decoding: Decoding,
        prefixes: str | Sequence[str],
        bring: Bring | None = None,
    ) -> None:
        """`prefixes` are one for all images or one an image. An image that is there several times,
        the same object, is looked at once. `bring` loads what of the variants is not in memory yet,
        and says why one cannot be.
        """
        self.shared = shared
        self.variants = variants
        self.images = images
        self.decoding = decoding
        self.prefixes = [prefixes] * len(images) if isinstance(prefixes, str) else list(prefixes)
        self.bring = bring
        self.cancelled = threading.Event()

    def run(
        self, tell: Callable[[dict[str, Partial]], None] | None = None
    ) -> dict[str, list[Caption]]:
        """The captions of each variant; `tell` hears of the first image's after every token, and of
        its end as soon as its batch has ended.

        A variant that cannot be loaded is told of as its `error`, and the others go on; without
        `tell` it is a CaptioningError.
        """
        with self._turn():
            faults = self.bring(self.shared, self.variants) if self.bring is not None else {}
            if faults and tell is None:
                raise CaptioningError(next(iter(faults.values())))
            if tell is not None and faults:
                tell({name: Partial(done=True, error=fault) for name, fault in faults.items()})
            able = [name for name in self.variants if name not in faults]
            if not able:
                return {}
            try:
                with torch.inference_mode():
                    return self._generate(able, tell)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Out here the error is gone, and with its traceback the tensors of the batch.
            backbone = self.shared.loaded
            if backbone.device.type == "cuda":
                torch.cuda.empty_cache()
            raise OutOfMemoryError(
                f"Memory ran out on {backbone.device} while captioning in "
                f"{backbone.precision.value}: use fewer photos at once, fewer beams or a shorter "
                "maximum length."
            )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        while not self.shared.lock.acquire(timeout=TURN_POLL):
            if self.cancelled.is_set():
                raise Cancelled
        try:
            with captioning_turn(self.shared.device_lock):
                yield
        finally:
            self.shared.lock.release()

    def _generate(
        self, variants: Sequence[str], tell: Callable[[dict[str, Partial]], None] | None
    ) -> dict[str, list[Caption]]:
        backbone = self.shared.loaded
        passes = self._passes(variants)
        start = clock(backbone.device)
        distinct = {id(image): image for image in self.images}
        places = {key: place for place, key in enumerate(distinct)}
        rows = torch.tensor([places[id(image)] for image in self.images], device=backbone.device)
        pixels = encode_images(backbone.processor, list(distinct.values())).to(backbone.device)
        seen = None
        if not all(batch.changes_sight for batch, _ in passes):
            seen = self._look(backbone.model, pixels)
        looked = clock(backbone.device) - start
        answers: dict[str, dict[int, Caption]] = {name: {} for name in variants}
        for batch, asked in passes:
            begin = clock(backbone.device)
            if batch.changes_sight or seen is None:
                own = self._look(batch.model, pixels)
            else:
                own, begin = seen, begin - looked  # as if this batch alone had been asked for
            heard = tell if asked[0] == 0 else None
            captions = self._answer(batch, asked, own[rows[asked]], begin, heard)
            if heard is not None:
                heard({name: finished(of_images[0]) for name, of_images in captions.items()})
            for name, of_images in captions.items():
                answers[name].update(zip(asked, of_images, strict=True))
        return {
            name: [answers[name][index] for index in range(len(self.images))] for name in variants
        }

    def _passes(self, variants: Sequence[str]) -> list[tuple[Batch, list[int]]]:
        """Batches with the images of each: all, unless questions are for adapters of their own."""
        images = range(len(self.images))
        if not self.shared.parts_questions(variants):
            return [(batch, list(images)) for batch in self.shared.batches(variants)]
        return [
            (batch, asked)
            for questions in (False, True)
            if (asked := [row for row in images if is_question(self.prefixes[row]) == questions])
            for batch in self.shared.batches(variants, questions=questions)
        ]

    def _look(self, model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        """What a model's vision tower and projector see in each image: (B, N, D)."""
        return family_of(self.shared.loaded.model.config).image_features(model, pixels)

    def _answer(
        self,
        batch: Batch,
        asked: Sequence[int],
        seen: torch.Tensor,
        start: float,
        tell: Callable[[dict[str, Partial]], None] | None,
    ) -> dict[str, list[Caption]]:
        """The captions of one batch's contenders for the images that are `asked` about, as they are
        `seen`; times count from `start`.
        """
        backbone, count = self.shared.loaded, len(asked)
        family = family_of(backbone.model.config)
        rows = len(batch.contenders) * count
        prefixes = [self.prefixes[index] for index in asked] * len(batch.contenders)
        prompt = encode_text(backbone.processor, prefixes).to(backbone.device)
        seen = torch.cat([seen] * len(batch.contenders))  # (V * B, N, D), in the order of the rows
        ends = family.end_tokens(backbone.model, backbone.processor)
        beams = self.decoding.num_beams > 1
        watch = Watch(rows, ends, beams, backbone.device, self.cancelled)
        if tell is not None and not beams:
            watch.listener = lambda: tell(
                self._partials(batch.contenders, watch.rows[::count], start)
            )
        own = batch.row_adapters and [name for name in batch.row_adapters for _ in range(count)]
        names = names_of_rows(batch.model, list(map(task_of, prefixes)), own)
        mixed = {} if names is None else {"adapter_names": names}
        tokens = family.generate(
            batch.model,
            prompt,
            seen,
            **mixed,
            do_sample=False,
            num_beams=self.decoding.num_beams,
            max_new_tokens=self.decoding.max_new_tokens,
            logits_processor=LogitsProcessorList([watch.given, *self.decoding.processors()]),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
        end = clock(backbone.device)
        if self.cancelled.is_set():
            raise Cancelled
        texts = [up_to_end(row, ends) for row in tokens.tolist()]
        captions = [
            Caption(
                text,
                len(own),
                row.first - start,
                (row.end or end) - start,
                None if beams else row.surprise / -len(own),
            )
            for text, own, row in zip(self._decode(texts), texts, watch.rows, strict=True)
        ]
        return {
            name: captions[index * count : (index + 1) * count]
            for index, name in enumerate(batch.contenders)
        }

    def _partials(
        self, contenders: Sequence[str], firsts: list[Row], start: float
    ) -> dict[str, Partial]:
        texts = self._decode([row.tokens for row in firsts])
        return {
            name: Partial(text, len(row.tokens), row.first - start, row.newest - start)
            for name, text, row in zip(contenders, texts, firsts, strict=True)
        }

    def _decode(self, rows: list[list[int]]) -> list[str]:
        backbone = self.shared.loaded
        own = backbone.processor, backbone.model.config
        return [decode(own[0], torch.tensor([tokens]), own[1])[0] for tokens in rows]


def greedy(
    backbone: Backbone,
    model: Any,
    images: Sequence[Image.Image],
    prefixes: str | Sequence[str],
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers to RGB images by a model over the backbone's weights, in evaluation mode,
    whatever of it was wrapped or changed; `prefixes` as of `Generation`. Raises OutOfMemoryError.
    """
    own = replace(backbone, model=model)
    device = str(backbone.device)
    shared = SharedBackbone(backbone.name, backbone.precision, device, backbone=own)
    decoding = Decoding(max_new_tokens=max_new_tokens)
    answers = Generation(shared, ["model"], images, decoding, prefixes).run()
    return [answer.text for answer in answers["model"]]


def finished(caption: Caption) -> Partial:
    """A caption that has come to its end."""
    times = caption.seconds_to_first_token, caption.seconds
    return Partial(
        caption.text, caption.tokens, *times, done=True, log_probability=caption.log_probability
    )
