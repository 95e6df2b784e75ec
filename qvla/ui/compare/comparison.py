"""One comparison as the page sees it: panes that change until every variant has had its say."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qvla.captioning.contenders import Contender
from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.ui import zerogpu
from qvla.ui.answered import answered
from qvla.ui.panes import Pane, PaneState, idle_panes

if TYPE_CHECKING:
    from PIL import Image

    from qvla.captioning.decoding import Decoding
    from qvla.captioning.generation import Partial
    from qvla.captioning.lineup import Lineup

log = logging.getLogger(__name__)

Panes = tuple[Pane, ...]
Certain = Callable[[Pane], str]
Scoring = Callable[[Sequence[Pane], Sequence[str]], Panes]

FRAME_SECONDS = 0.05  # a page that changes more often than 20 times a second only costs time
POLL_SECONDS = 0.3
STOPPED = "Stopped before the end."
WAITING = "Waiting for a turn…"
LOOKING = "Looking at the photo…"
LOADING = "Loading its adapter from the bank…"
LEFT = "You stopped it before its turn came."


def compare(
    loader: LineupLoader,
    image: Image.Image,
    options: Mapping[str, Any],
    references: Sequence[str],
    stopped: threading.Event,
    names: Sequence[str] | None = None,
    certain: Certain | None = None,
    *,
    question: str = "",
    scored: Scoring | None = None,
) -> Iterator[Panes]:
    """The newest state of all panes, until all are done or `stopped` is set.

    `options` are the arguments of `Decoding`; `names` are who answers, all contenders unless they
    are given. Waits for the weights when they are still loading. `certain` tells how sure a
    finished pane's caption is. With a `question` it is answered, and no caption made; `scored`
    scores the finished panes, by `score` without.
    Faults end up in the panes, not as errors. Closing the iterator stops the generation.
    """
    panes = tuple(
        replace(pane, state=PaneState.WAITING, message="Waiting for the weights…")
        for pane in idle_panes(planned(loader, names))
    )
    lineup = None
    try:
        while lineup is None:
            lineup = loader.wait(timeout=0)
            if stopped.is_set():
                yield ended(panes, PaneState.STOPPED, STOPPED)
                return
            if lineup is None:
                message = loader.state().message
                yield tuple(replace(pane, message=message) for pane in panes)
                stopped.wait(POLL_SECONDS)
        # Only now: Transformers cannot be imported twice at once, and the loader imports it.
        from qvla.captioning.decoding import Decoding

        decoding = Decoding(**options)
        panes = yield from _stream(lineup, names, image, decoding, question, references, stopped)
        panes = (scored or score)(panes, references)
        yield panes
        if certain is not None:
            yield tuple(replace(pane, certainty=certain(pane)) for pane in panes)
    except QvlaError as error:
        yield tuple(replace(pane, state=PaneState.FAILED, message=str(error)) for pane in panes)
    except Exception as error:
        log.exception("A comparison failed.")
        sentence = (
            f"Captioning failed because of an unforeseen {type(error).__name__}; "
            "the app's log has the details."
        )
        yield tuple(replace(pane, state=PaneState.FAILED, message=sentence) for pane in panes)


def planned(loader: LineupLoader, names: Sequence[str] | None) -> list[Contender]:
    """The contenders and tasks of these names that there are; all contenders without names."""
    known = {one.name: one for one in loader.contenders}
    if names is None:
        return list(known.values())
    if not known.keys() >= set(names):
        known |= {one.name: one for one in loader.tasks}
    return [known[name] for name in names if name in known]


def lineup_panes(
    lineup: Lineup, names: Sequence[str] | None, state: PaneState, message: str
) -> Panes:
    """Panes with the identity of each variant, nothing said yet; of all contenders without names.

    Raises QvlaError for a name that nobody has.
    """
    panes = []
    for variant in map(lineup.variant, lineup.names() if names is None else names):
        panes.append(
            Pane(
                variant.name,
                state=state if variant.available else PaneState.UNAVAILABLE,
                message=message if variant.available else variant.reason,
                model=variant.model,
                adapter=variant.adapter,
                precision=variant.precision,
                weight_bytes=variant.weight_bytes,
                remark=variant.remark,
                called=variant.title,
            )
        )
    return tuple(panes)


def waiting(panes: Panes) -> Panes:
    """Panes of contenders whose turn is still to come."""
    return tuple(
        pane
        if pane.state is PaneState.UNAVAILABLE
        else replace(pane, state=PaneState.WAITING, message=WAITING)
        for pane in panes
    )


def ended(panes: Panes, state: PaneState, message: str) -> Panes:
    """Panes with an end for those that are still busy."""
    return tuple(
        replace(pane, state=state, message=message) if pane.state.busy else pane for pane in panes
    )


def score(panes: Sequence[Pane], references: Sequence[str]) -> Panes:
    """Panes with their scores against the references and the shared words marked."""
    return tuple(_score(pane, references) for pane in panes)


def _stream(
    lineup: Lineup,
    names: Sequence[str] | None,
    image: Image.Image,
    decoding: Decoding,
    question: str,
    references: Sequence[str],
    stopped: threading.Event,
) -> Generator[Panes, None, Panes]:
    from qvla.captioning.prompts import prompt_of

    panes = tuple(
        pane
        if pane.state is PaneState.UNAVAILABLE or lineup.is_in_memory(pane.name)
        else replace(pane, message=LOADING)
        for pane in lineup_panes(lineup, names, PaneState.WAITING, LOOKING)
    )
    yield panes
    available = [pane.name for pane in panes if pane.state is not PaneState.UNAVAILABLE]
    if not available:
        return panes
    last = 0.0
    newest: Mapping[str, Partial] = {}
    partials = zerogpu.stream(lineup, image, available, decoding, prompt_of(question))
    try:
        for newest in partials:
            if stopped.is_set():
                panes = ended(_updated(panes, newest, references), PaneState.STOPPED, STOPPED)
                break
            if time.monotonic() - last >= FRAME_SECONDS:
                panes = _updated(panes, newest, references)
                yield panes
                last = time.monotonic()
        else:
            panes = _updated(panes, newest, references)
    finally:
        partials.close()
        for pane in ended(panes, PaneState.STOPPED, STOPPED):
            answered(pane.name, pane.state.value, pane.tokens, pane.seconds)
    return tuple(_weighed(lineup, pane) for pane in panes)


def _updated(panes: Panes, newest: Mapping[str, Partial], references: Sequence[str]) -> Panes:
    return tuple(
        _update(pane, newest[pane.name], references) if pane.name in newest else pane
        for pane in panes
    )


def _weighed(lineup: Lineup, pane: Pane) -> Pane:
    """What a task weighs is known once its adapter was loaded."""
    with suppress(QvlaError):  # it was taken away meanwhile
        return replace(pane, weight_bytes=lineup.variant(pane.name).weight_bytes)
    return pane


def _update(pane: Pane, partial: Partial, references: Sequence[str]) -> Pane:
    state, message = PaneState.STREAMING, pane.message
    if partial.error:
        state, message = PaneState.FAILED, partial.error
    elif partial.done:
        state, message = PaneState.DONE, "" if partial.text else "The model said nothing."
    elif partial.text:
        message = ""
    return replace(
        pane,
        state=state,
        message=message,
        text=partial.text,
        tokens=partial.tokens,
        seconds_to_first_token=partial.seconds_to_first_token,
        seconds=partial.seconds if partial.tokens else None,
        log_probability=partial.log_probability,
        unfamiliar=partial.unfamiliar,
        words=shared(partial.text, references),
    )


def _score(pane: Pane, references: Sequence[str]) -> Pane:
    bare = replace(pane, cider_d=None, rouge_l=None, words=(), scoring_fault="")
    if not references or not pane.text or pane.state is not PaneState.DONE:
        return replace(bare, words=shared(pane.text, references))
    from qvla.scoring import sentence_scores

    try:
        scores = sentence_scores(pane.text, references)
    except QvlaError as error:
        return replace(bare, scoring_fault=str(error))
    words = shared(pane.text, references)
    return replace(bare, cider_d=scores.cider_d, rouge_l=scores.rouge_l, words=words)


def shared(text: str, references: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """A text's pieces, and whether each is a word that a reference has too; none without any."""
    if not references or not text:
        return ()
    from qvla.scoring import shared_words

    return tuple(shared_words(text, references))
