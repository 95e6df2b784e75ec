"""One generation on one backbone: the rows of its batch, every token's time, and when to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutputWithPooling

from qvla.captioning.decoding import Decoding
from qvla.captioning.lineup import SharedBackbone
from qvla.captioning.prompts import decode, encode_images, encode_text
from qvla.captioning.sharing import captioning_turn
from qvla.errors import QvlaError
from qvla.faults import is_out_of_memory
from qvla.records.measure import clock

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
    """

    text: str
    tokens: int
    seconds_to_first_token: float
    seconds: float


@dataclass(frozen=True)
class Partial:
    """A caption on its way; `error` is a sentence for the user, and then nothing more comes."""

    text: str = ""
    tokens: int = 0
    seconds_to_first_token: float | None = None
    seconds: float = 0.0
    done: bool = False
    error: str | None = None


class Cancelled(Exception):
    """The one who asked for the captions went away."""


class Generation:
    """One generation on one backbone: rows are all images of the first variant, then the next."""

    def __init__(
        self,
        shared: SharedBackbone,
        variants: list[str],
        images: Sequence[Image.Image],
        decoding: Decoding,
        prefix: str,
    ) -> None:
        self.shared = shared
        self.variants = variants
        self.images = images
        self.decoding = decoding
        self.prefix = prefix
        self.cancelled = threading.Event()

    def run(
        self, tell: Callable[[dict[str, Partial]], None] | None = None
    ) -> dict[str, list[Caption]]:
        """The captions of each variant; `tell` hears of the first image's after every token."""
        with self._turn():
            try:
                with torch.inference_mode():
                    return self._generate(tell)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Out here the error is gone, and with its traceback the tensors of the batch.
            backbone = self.shared.backbone
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
        self, tell: Callable[[dict[str, Partial]], None] | None
    ) -> dict[str, list[Caption]]:
        model = self.shared.backbone.model
        processor = self.shared.backbone.processor
        device = self.shared.backbone.device
        start = clock(device)
        names = self.shared.row_names(self.variants, len(self.images))
        prompt = encode_text(processor, [self.prefix] * len(names)).to(device)
        pixels = encode_images(processor, self.images).to(device)
        # (B, N, D): what the vision tower and projector, which carry no adapter, see in each image
        seen = model.get_image_features(pixels).pooler_output
        seen = seen.repeat(len(self.variants), 1, 1)  # (V * B, N, D), in the order of the rows
        ends = end_tokens(model, processor)
        watch = _Watch(len(names), ends, self.decoding.num_beams > 1, device, self.cancelled)
        if tell is not None and self.decoding.num_beams == 1:
            watch.listener = lambda: tell(self._partials(watch.rows, start))
        mixed = {"adapter_names": names} if self.shared.adapters else {}
        sequences = model.generate(
            **prompt,
            **mixed,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=seen)},
            do_sample=False,
            num_beams=self.decoding.num_beams,
            max_new_tokens=self.decoding.max_new_tokens,
            logits_processor=self.decoding.processors(),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
        end = clock(device)
        if self.cancelled.is_set():
            raise Cancelled
        answers = sequences[:, prompt["input_ids"].shape[1] :].tolist()
        texts = [_up_to_end(tokens, ends) for tokens in answers]
        captions = [
            Caption(text, len(tokens), row.first - start, (row.end or end) - start)
            for text, tokens, row in zip(self._decode(texts), texts, watch.rows, strict=True)
        ]
        count = len(self.images)
        return {
            name: captions[index * count : (index + 1) * count]
            for index, name in enumerate(self.variants)
        }

    def _partials(self, rows: list[_Row], start: float) -> dict[str, Partial]:
        firsts = rows[:: len(self.images)]
        texts = self._decode([row.tokens for row in firsts])
        return {
            name: Partial(text, len(row.tokens), row.first - start, row.newest - start)
            for name, text, row in zip(self.variants, texts, firsts, strict=True)
        }

    def _decode(self, rows: list[list[int]]) -> list[str]:
        processor = self.shared.backbone.processor
        return [decode(processor, torch.tensor([tokens]))[0] for tokens in rows]


@dataclass
class _Row:
    tokens: list[int]
    first: float = 0.0  # clock readings
    newest: float = 0.0
    end: float | None = None


class _Watch(StoppingCriteria):
    """Stamps every token as `generate` picks it, and ends the generation when it is cancelled.

    A stopping criterion rather than a streamer, because `generate` takes no streamer with beams.
    Of beams, which may yet be dropped, only the time of the first step is taken.
    """

    def __init__(
        self,
        rows: int,
        ends: set[int],
        beams: bool,
        device: torch.device,
        cancelled: threading.Event,
    ) -> None:
        self.rows = [_Row([]) for _ in range(rows)]
        self.listener: Callable[[], None] | None = None
        self._ends = ends
        self._beams = beams
        self._device = device
        self._cancelled = cancelled

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        now = clock(self._device)
        for row in self.rows:
            row.first = row.first or now
        if not self._beams:
            for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
                if row.end is None:
                    row.tokens.append(token)
                    row.newest = now
                    row.end = now if token in self._ends else None
        if self.listener is not None:
            self.listener()
        stop = self._cancelled.is_set()
        return torch.full((len(input_ids),), stop, dtype=torch.bool, device=input_ids.device)


def end_tokens(model: torch.nn.Module, processor: object) -> set[int]:
    """Every token that `generate` ends a caption of this checkpoint with."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = processor.tokenizer.eos_token_id
    return set(ends) if isinstance(ends, (list, tuple)) else {ends}


def _up_to_end(tokens: list[int], ends: set[int]) -> list[int]:
    """The tokens up to the end of text, that one included; what follows is the batch's padding."""
    for index, token in enumerate(tokens):
        if token in ends:
            return tokens[: index + 1]
    return tokens
