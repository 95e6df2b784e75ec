"""Captions of one photo or many, at once or token by token.

One generation a backbone: all photos and all variants on that backbone are rows of one batch, and
the vision tower runs once for them. On a GPU, and wherever captions are streamed, two backbones run
side by side, each in a thread of its own.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from PIL import Image

from qvla.captioning.decoding import Decoding
from qvla.captioning.generation import (
    Cancelled,
    Caption,
    CaptioningError,
    Generation,
    OutOfMemoryError,
    Partial,
)
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import CAPTION_PREFIX
from qvla.captioning.shared_backbone import SharedBackbone
from qvla.errors import QvlaError

__all__ = [
    "Caption",
    "CaptioningError",
    "Decoding",
    "OutOfMemoryError",
    "Partial",
    "caption",
    "stream",
]

log = logging.getLogger(__name__)

GREEDY = Decoding()
HEARTBEAT = 0.5  # seconds after which a stream without news yields, so that it can be closed


def caption(
    lineup: Lineup,
    images: Sequence[Image.Image],
    variants: Sequence[str] | None = None,
    decoding: Decoding = GREEDY,
    prefixes: str | Sequence[str] = CAPTION_PREFIX,
) -> list[dict[str, Caption]]:
    """Captions of RGB images, all in one batch: one dict an image, in the order given.

    `prefixes` are one prompt for all or one an image (`prompts.prompt_of`): a photo about which
    several things are asked is in `images` several times, and looked at once.
    Of all contenders, unless `variants` names some, of them or of the bank's tasks. The caller
    chooses how many images a batch holds. Raises QvlaError when a variant is unknown,
    CaptioningError when one is not available, and its OutOfMemoryError when the batch does not fit
    into memory.
    """
    names = lineup.known(variants)
    _check_images(images)
    for name in names:
        variant = lineup.variant(name)
        if not variant.available:
            raise CaptioningError(f"{variant.title} is not available: {variant.reason}")
    if not isinstance(prefixes, str) and len(prefixes) != len(images):
        raise QvlaError(f"There are {len(prefixes)} prompts for {len(images)} photos.")
    if not images:
        return []
    generations = [
        Generation(shared, own, images, decoding, prefixes, lineup.bring)
        for shared, own in _by_backbone(lineup, names)
    ]
    answers: dict[str, list[Caption]] = {}
    if all(generation.shared.device == "cpu" for generation in generations):
        # In turn and in this thread: each thread that computes has a pool of threads of its own for
        # matrix products, and two pools on the same cores take longer than one after the other.
        for generation in generations:
            answers.update(generation.run())
        return _by_image(answers, names, len(images))
    with ThreadPoolExecutor(max_workers=len(generations)) as pool:
        futures = [pool.submit(generation.run) for generation in generations]
        try:
            for future in futures:
                answers.update(future.result())
        except BaseException:
            for generation in generations:
                generation.cancelled.set()  # the other one's captions would be thrown away
            raise
    return _by_image(answers, names, len(images))


def stream(
    lineup: Lineup,
    image: Image.Image,
    variants: Sequence[str] | None = None,
    decoding: Decoding = GREEDY,
    prefix: str = CAPTION_PREFIX,
) -> Iterator[dict[str, Partial]]:
    """The newest state of every variant, again and again as tokens come, until all are done.

    While nothing new comes the same state is yielded every half second. What goes wrong on one
    backbone, or a variant that is not available, shows as that variant's `error`; the others go on.
    Closing the iterator stops generation at the next token. With beams only the final captions
    come. Raises QvlaError for unknown variants before anything runs.
    """
    names = lineup.known(variants)
    _check_images([image])
    state = {}
    for name in names:
        variant = lineup.variant(name)
        state[name] = Partial() if variant.available else Partial(done=True, error=variant.reason)
    running = [name for name in names if not state[name].done]
    generations = [
        Generation(shared, own, [image], decoding, prefix, lineup.bring)
        for shared, own in _by_backbone(lineup, running)
    ]
    return _states(state, generations)


def _by_image(
    answers: dict[str, list[Caption]], names: list[str], images: int
) -> list[dict[str, Caption]]:
    return [{name: answers[name][index] for name in names} for index in range(images)]


def _states(
    state: dict[str, Partial], generations: list[Generation]
) -> Iterator[dict[str, Partial]]:
    news: queue.SimpleQueue[tuple[str, Partial]] = queue.SimpleQueue()
    for generation in generations:
        threading.Thread(
            target=_run_and_tell, args=(generation, news), name="captions", daemon=True
        ).start()
    try:
        if not generations:
            yield dict(state)
        while not all(partial.done for partial in state.values()):
            with suppress(queue.Empty):
                name, partial = news.get(timeout=HEARTBEAT)
                state[name] = partial
                while True:  # a slow reader gets the newest state, not the backlog
                    name, partial = news.get_nowait()
                    state[name] = partial
            yield dict(state)
    finally:
        for generation in generations:
            generation.cancelled.set()


def _run_and_tell(generation: Generation, news: queue.SimpleQueue[tuple[str, Partial]]) -> None:
    latest = {name: Partial() for name in generation.variants}

    def tell(partials: dict[str, Partial]) -> None:
        for name, partial in partials.items():
            if partial != latest[name]:
                latest[name] = partial
                news.put((name, partial))

    def fail(sentence: str) -> None:
        left = {name: last for name, last in latest.items() if not last.done}
        tell({name: replace(last, done=True, error=sentence) for name, last in left.items()})

    try:
        generation.run(tell)
    except Cancelled:
        pass
    except QvlaError as error:
        fail(str(error))
    except Exception:
        log.exception("captioning failed for %s", ", ".join(generation.variants))
        fail("Captioning failed for a reason that stands in the log; try another photo.")


def _check_images(images: Sequence[Image.Image]) -> None:
    for image in images:
        if image.mode != "RGB":
            raise QvlaError(
                f"A photo is in mode {image.mode}, not RGB: open it with "
                "qvla.data.imagery.open_image."
            )


def _by_backbone(lineup: Lineup, names: list[str]) -> list[tuple[SharedBackbone, list[str]]]:
    groups: list[tuple[SharedBackbone, list[str]]] = []
    for name in names:
        shared = lineup.shared(name)
        own = next((group for held, group in groups if held is shared), None)
        if own is None:
            groups.append((shared, [name]))
        else:
            own.append(name)
    return groups
