"""Whatever asks the models from the page: here, or on ZeroGPU in a process that is lent a GPU.

On ZeroGPU of Hugging Face's Spaces the app has no GPU. Its package `spaces` runs what is decorated
in a process forked from the app's, where the weights are moved to a GPU for that one call.

- The line-up is not handed over: it is there as it was at the fork. Such a process is used again
  for the next call, so that nothing of the line-up may change once the page is open.
- Arguments and answers are pickled. A generator's values come as they are made, and closing it
  closes the one over there. Of an exception only its class comes back: ours come as values.
- Weights are placed on `cuda` before the page opens and in the thread that has imported `spaces`,
  which stands in for CUDA until then.

Elsewhere `spaces` is not needed, and the functions here are the engine's own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.errors import QvlaError
from qvla.faults import first_line
from qvla.planning.lending import seconds_to_lend
from qvla.settings import on_zerogpu

if TYPE_CHECKING:
    from PIL import Image

    from qvla.captioning.attention import Looked
    from qvla.captioning.decoding import Decoding
    from qvla.captioning.generation import Partial
    from qvla.captioning.lineup import Lineup
    from qvla.captioning.loader import LineupLoader

log = logging.getLogger(__name__)

FIXED = (
    "On ZeroGPU the panes stay as they were at the start: name the adapter in QVLA_ADAPTER, "
    "QVLA_NF4_ADAPTER or QVLA_LINEUP, and restart the Space."
)
MISSING = (
    "This Space is on ZeroGPU, and the package `spaces` is not installed: add it to "
    "requirements.txt."
)
USED_UP = "Your ZeroGPU time is used up: try again in {wait}, or sign in to an account with more."
# By the titles and messages of what `spaces` raises (`zero/client.py` and `zero/wrappers.py`).
SENTENCES = (
    (
        "Space app has reached",
        "The GPU time for visitors who are not signed in is used up: sign in "
        "at huggingface.co and open this Space there.",
    ),
    ("quota exceeded", USED_UP.format(wait="some hours")),
    (
        "pending credits",
        "Too much of your ZeroGPU time is set aside for calls that still run: try "
        "again when they have ended.",
    ),
    ("illegal duration", "ZeroGPU lends no GPU for so long: ask for fewer tokens or fewer panes."),
    ("queue timeout", "No GPU became free within a minute: try again."),
    ("Expired", "Your pass for ZeroGPU has run out: reload the page."),
    ("client error", "No GPU is free: try again in a moment."),
    ("aborted", "The GPU was taken back before the end: ask for fewer tokens or fewer panes."),
)
UNFORESEEN = "ZeroGPU could not be used ({why}): try again, and see the Space's log if it stays so."


class GpuError(QvlaError):
    """No GPU was lent; the message says why and what to do."""


@dataclass(frozen=True)
class Fault:
    """One of our own errors, on its way out of the process that was lent a GPU."""

    sentence: str


class _Held:
    lineup: Lineup | None = None  # what such a process has from the fork


def stream(
    lineup: Lineup, image: Image.Image, variants: Sequence[str], decoding: Decoding, prefix: str
) -> Iterator[dict[str, Partial]]:
    """As `engine.stream`. Raises GpuError, once it is iterated, where ZeroGPU lends no GPU."""
    from qvla.captioning import engine

    if not on_zerogpu():
        return engine.stream(lineup, image, variants, decoding, prefix)
    return _lent(lineup, lineup.known(variants), image, decoding, prefix)


def where_it_looked(
    lineup: Lineup, name: str, image: Image.Image, prefix: str, answer: str
) -> Looked:
    """As `attention.where_it_looked`. Raises GpuError where ZeroGPU lends no GPU."""
    from qvla.captioning import attention
    from qvla.captioning.decoding import Decoding

    if not on_zerogpu():
        return attention.where_it_looked(lineup, name, image, prefix, answer)
    (looked,) = _lent(lineup, [name], image, Decoding(1), prefix, answer)
    return looked


def prepare(loader: LineupLoader) -> None:
    """Loads the weights, before the page opens and in the thread that opens it.

    Raises QvlaError where `spaces` is not installed.
    """
    _decorated()  # before anything is on `cuda`, for which `spaces` stands in from its import
    lineup = loader.load().lineup
    if lineup is not None:
        lineup.close(FIXED)


def sentence_of(error: Exception) -> str:
    """What `spaces` raised, in one sentence that says what to do."""
    if not isinstance(error, gr.Error):
        return UNFORESEEN.format(why=first_line(error))
    said = f"{getattr(error, 'title', '')}: {error.message}"
    if (wait := re.search(r"Try again in ([\w:, ]+)\.", said)) is not None:
        return USED_UP.format(wait=wait[1])
    known = (sentence for part, sentence in SENTENCES if part in said)
    return next(known, UNFORESEEN.format(why=str(error.message).rstrip(".")))


@cache
def _decorated() -> Callable[..., Iterator[Any]]:
    try:
        import spaces
    except ImportError as error:
        raise QvlaError(MISSING) from error
    return spaces.GPU(duration=_seconds)(_ask)


def _lent(lineup: Lineup, *asked: Any) -> Iterator[Any]:
    """What `_ask` yields where it has a GPU."""
    _Held.lineup = lineup
    try:
        with closing(_decorated()(*asked)) as answers:
            for answer in answers:
                if isinstance(answer, Fault):
                    raise GpuError(answer.sentence)
                yield answer
    except QvlaError:
        raise
    except Exception as error:
        log.warning("ZeroGPU: %s", first_line(error))
        raise GpuError(sentence_of(error)) from error


def _ask(
    names: list[str],
    image: Image.Image,
    decoding: Decoding,
    prefix: str,
    answer: str | None = None,
) -> Iterator[dict[str, Partial] | Looked | Fault]:
    """Runs in the process with the GPU: streams captions, or tells where an answer looked."""
    from qvla.captioning import attention, engine

    lineup = _Held.lineup
    assert lineup is not None
    try:
        if answer is not None:
            yield attention.where_it_looked(lineup, names[0], image, prefix, answer)
        else:
            with closing(engine.stream(lineup, image, names, decoding, prefix)) as partials:
                yield from partials
    except QvlaError as error:
        yield Fault(str(error))


def _seconds(
    names: list[str],
    image: Image.Image,
    decoding: Decoding,
    prefix: str,
    answer: str | None = None,
) -> int:
    """For how long a GPU is asked for, from the very arguments of the call."""
    lineup = _Held.lineup
    assert lineup is not None
    held = {id(shared): shared for shared in map(lineup.shared, lineup.names())}
    size = sum(shared.weight_bytes() for shared in held.values() if shared.backbone is not None)
    beams = decoding.num_beams > 1
    return seconds_to_lend(size, len(names), decoding.max_new_tokens, beams=beams)
