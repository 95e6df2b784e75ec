"""Captions of one photo or many, at once or token by token.

One generation a backbone: all photos and all variants on that backbone are rows of one batch, and
the vision tower runs once for them. A `runner` answers them, together with those of others.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
from PIL import Image

from qvla.captioning.decoding import Decoding
from qvla.captioning.generation import (
    Caption,
    CaptioningError,
    Generation,
    OutOfMemoryError,
    Partial,
)
from qvla.captioning.graphs import STEPS, recorder_of
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import CAPTION_PREFIX
from qvla.captioning.runner import runner_of
from qvla.captioning.shared_backbone import SharedBackbone
from qvla.errors import QvlaError

__all__ = [
    "Caption",
    "CaptioningError",
    "Decoding",
    "OutOfMemoryError",
    "Partial",
    "caption",
    "rehearse",
    "stream",
]

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
    generations = _generations(lineup, names, images, decoding, prefixes)
    for generation in generations:
        runner_of(generation.shared).submit(generation)
    answers: dict[str, list[Caption]] = {}
    try:
        for generation in generations:
            generation.ended.wait()
            answers.update(generation.result())
    finally:
        for generation in generations:
            generation.cancelled.set()  # the other one's captions would be thrown away
    return [{name: answers[name][index] for name in names} for index in range(len(images))]


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
    return _states(state, _generations(lineup, running, [image], decoding, prefix))


def rehearse(lineup: Lineup) -> None:
    """Has what is available caption a grey photo where steps are recorded, so that the first to ask
    need not wait for that.
    """
    names = [
        one.name
        for one in lineup.variants()
        if one.available and recorder_of(torch.device(one.device)) is not None
    ]
    if names:
        grey = Image.new("RGB", (64, 64), "grey")
        caption(lineup, [grey], names, Decoding(max_new_tokens=2 * STEPS))


def _generations(
    lineup: Lineup,
    names: list[str],
    images: Sequence[Image.Image],
    decoding: Decoding,
    prefixes: str | Sequence[str],
) -> list[Generation]:
    """One for each backbone on which some of the names answer."""
    return [
        Generation(
            *(shared, own, images, decoding, prefixes, lineup.bring),
            changes=lineup.has_to_bring,
        )
        for shared, own in _by_backbone(lineup, names)
    ]


def _states(
    state: dict[str, Partial], generations: list[Generation]
) -> Iterator[dict[str, Partial]]:
    news: queue.SimpleQueue[dict[str, Partial]] = queue.SimpleQueue()
    for generation in generations:
        generation.tell = news.put
        runner_of(generation.shared).submit(generation)
    try:
        if not generations:
            yield dict(state)
        while not all(partial.done for partial in state.values()):
            with suppress(queue.Empty):
                state.update(news.get(timeout=HEARTBEAT))
                while True:  # a slow reader gets the newest state, not the backlog
                    state.update(news.get_nowait())
            yield dict(state)
    finally:
        for generation in generations:
            generation.cancelled.set()


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
