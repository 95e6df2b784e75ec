"""One answer by one contender, state by state, in the thread that has the turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qvla.captioning.loader import LineupLoader
from qvla.data.imagery import ImageError, open_image
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui import zerogpu
from qvla.ui.answered import answered
from qvla.ui.chat.answers import Said
from qvla.ui.chat.errors import ChatError
from qvla.ui.chat.request import Asked

if TYPE_CHECKING:
    from qvla.captioning.decoding import Decoding
    from qvla.captioning.lineup import Lineup


def loaded(loader: LineupLoader) -> Lineup:
    """The line-up. Raises ChatError with 503 where there is none (yet)."""
    if loader.lineup is None:
        raise ChatError(f"The weights are not loaded: {loader.state().message}", 503)
    return loader.lineup


def lineup_with(loader: LineupLoader, name: str) -> Lineup:
    """The line-up, with somebody under this name who can answer. Raises ChatError: 404, or 503
    as `loaded` does.
    """
    lineup = loaded(loader)
    try:
        lineup.known([name])
        variant = lineup.variant(name)
    except QvlaError as error:
        raise _unknown(str(error)) from error
    if not variant.available:
        raise _unknown(f"{variant.title} is not available: {variant.reason}")
    return lineup


def _unknown(sentence: str) -> ChatError:
    return ChatError(sentence, 404, param="model", code="model_not_found")


def decoding_of(asked: Asked) -> Decoding:
    """Raises ChatError for values that make no sense."""
    from qvla.captioning.decoding import Decoding

    try:
        return Decoding(**asked.options)
    except QvlaError as error:
        raise ChatError(str(error)) from error


def speak(
    lineup: Lineup, asked: Asked, decoding: Decoding, settings: Settings, stopped: threading.Event
) -> Iterator[Said]:
    """The answer as it grows, until it is done or `stopped` is set. Raises ChatError."""
    from qvla.captioning.engine import Partial
    from qvla.captioning.prompts import encode_text, typed_prompt

    shared = lineup.shared(asked.model)

    def prompt_tokens() -> int:
        """Of the photo and the text; 0 while a task's base is still to be loaded."""
        if shared.backbone is None:
            return 0
        return len(encode_text(shared.backbone.processor, [prompt])["input_ids"][0])

    try:
        prompt = typed_prompt(asked.text)
        image = open_image(
            asked.photo, max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels
        )
        prompt_tokens()
    except ImageError as error:
        raise ChatError(str(error), param="messages", code="invalid_image") from error
    except QvlaError as error:  # of the text, which may be too long or hold special tokens
        raise ChatError(str(error), param="messages") from error
    partials = zerogpu.stream(lineup, image, [asked.model], decoding, prompt)
    partial = Partial()
    try:
        for newest in partials:
            partial = newest[asked.model]
            if partial.done or stopped.is_set():
                break
            yield Said(partial.text, partial.tokens, prompt_tokens())
    finally:  # counted before the client hears of the end, who may ask for the counts
        partials.close()
        outcome = "failed" if partial.error else "done" if partial.done else "stopped"
        answered(asked.model, outcome, partial.tokens, partial.seconds)
    if partial.error:
        raise ChatError(partial.error, 503)
    if partial.done:
        yield Said(partial.text, partial.tokens, prompt_tokens(), done=True)
