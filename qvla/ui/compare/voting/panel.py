"""The blind vote's place on the page: a tick that hides the names, and a bar to vote by."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.records import votes
from qvla.records.votes import Vote, Voted
from qvla.settings import ASSETS, Settings
from qvla.ui.compare.comparison import planned
from qvla.ui.compare.history import Comparison
from qvla.ui.compare.history_panel import HistoryPanel
from qvla.ui.compare.offers import answering
from qvla.ui.compare.turns import visit_of
from qvla.ui.compare.voting.ballots import MOST_IN_PERIOD, Ballot, Ballots
from qvla.ui.compare.voting.mask import Mask
from qvla.ui.panes import Pane, PaneState

SCRIPT = (ASSETS / "ui" / "vote.js").read_text(encoding="utf-8")
ADAPTER_FILE = "adapter_model.safetensors"
OTHERS = {"tie": "Tie", "none": "All bad"}
NOTHING = "There is nothing to vote on: compare a photo with the blind vote on first."
TOO_MANY = f"You have voted {MOST_IN_PERIOD} times within ten minutes: go on in a while."
NO_VOTE = (
    "There is no vote on this one: not all of them answered, or you have seen what they say with "
    "their names."
)
Update = dict[Any, Any]


class VotePanel:
    """`tick` is laid out where it is made, the bar where `bar` is called."""

    def __init__(self, settings: Settings, loader: LineupLoader) -> None:
        self.settings, self.loader = settings, loader
        self.ballots = Ballots()
        self.tick = gr.Checkbox(
            False,
            label="Blind vote",
            info="Names stay hidden until you have said which caption is best.",
            visible=settings.may_vote,
            elem_id="blind",
        )

    def lay_out_bar(self) -> None:
        self.bar = gr.HTML(
            None,
            choices="",
            html_template="${choices}",
            js_on_load=SCRIPT,
            apply_default_css=False,
            elem_id="vote",
            label="Vote",
        )

    @property
    def outputs(self) -> list[Any]:
        return [self.bar]

    def mask(self, blind: object, seats: Sequence[str]) -> Mask | None:
        """What hides the names of those who are to answer, if they are to be hidden."""
        if blind is not True or not self.settings.may_vote:
            return None
        names = answering(self.loader, seats)
        return Mask.of(names) if len(names) > 1 else None

    def cleared(self, request: gr.Request) -> Update:
        """The update once other captions, or none, are shown: what was open is open no more."""
        self.ballots.take(visit_of(request))
        return {self.bar: _bar("")}

    def is_open(self, request: gr.Request) -> bool:
        return self.ballots.is_open(visit_of(request))

    def opened(
        self,
        entry: Comparison,
        mask: Mask,
        visited: Sequence[Comparison],
        request: gr.Request,
    ) -> Update | None:
        """The update that asks for a vote on what was just compared; None where not all answered,
        or where this visit has the same captions with their names already.
        """
        entry = replace(entry, panes=mask.ordered(entry.panes))
        if not all(pane.state is PaneState.DONE and pane.text for pane in entry.panes):
            return None
        if any(one.digest == entry.digest and _said(one) & _said(entry) for one in visited):
            return None
        shown = tuple(_voted(pane, self.loader) for pane in entry.panes)
        self.ballots.hold(visit_of(request), Ballot(entry, shown))
        return {self.bar: _bar(_choices(len(shown)))}

    def not_opened(self) -> Update:
        """The update that says why there is no vote."""
        return {self.bar: _bar(f'<p class="vote-thanks" role="status">{NO_VOTE}</p>')}

    def wire(
        self,
        history: HistoryPanel,
        told: Callable[[tuple[Pane, ...]], Update],
        panes: list[Any],
    ) -> Any:
        """`told` gives the updates of `panes` that show them; returns the event of a vote."""

        def vote(choice: Any, visited: tuple[Comparison, ...], request: gr.Request) -> Update:
            try:
                ballot = self._count(choice, request)
            except QvlaError as error:
                raise gr.Error(str(error), print_exception=False) from error
            entry = ballot.entry
            return {
                **history.show((*visited, entry)),
                **told(entry.panes),
                self.bar: _bar(_thanks(choice, entry.panes)),
            }

        return self.bar.vote(
            vote,
            inputs=[self.bar, history.visited],
            outputs=[self.bar, *history.outputs, *panes],
            queue=False,
            show_progress="hidden",
            api_name="vote",
            api_visibility="undocumented",
        )

    def _count(self, choice: Any, request: gr.Request) -> Ballot:
        """Keeps a vote of this visit on what it was shown. Raises QvlaError for any other."""
        if not self.settings.may_vote:
            raise QvlaError("This app takes no votes.")
        visit = visit_of(request)
        if not self.ballots.is_open(visit):
            raise QvlaError(NOTHING)
        if not self.ballots.allows(str(getattr(request.client, "host", ""))):
            raise QvlaError(TOO_MANY)
        ballot = self.ballots.take(visit)
        if ballot is None:  # a second vote came at the same time
            raise QvlaError(NOTHING)
        places = [str(place) for place in range(len(ballot.shown))]
        if choice not in (*places, *OTHERS):
            self.ballots.hold(visit, ballot)
            raise QvlaError("Choose one of the captions, a tie, or all bad.")
        chosen = choice if choice in OTHERS else int(choice)
        moment = datetime.now(UTC).replace(microsecond=0)
        votes.add(Vote(time=moment, shown=ballot.shown, choice=chosen), self.settings.votes_file)
        return ballot


def _voted(pane: Pane, loader: LineupLoader) -> Voted:
    (one,) = planned(loader, [pane.name]) or [None]
    weights = "" if one is None or one.adapter is None else _weights_of(Path(one.adapter))
    return Voted(
        name=pane.name,
        title=pane.title,
        model=pane.model,
        adapter=pane.adapter,
        precision=pane.precision,
        weights=weights,
    )


def _said(entry: Comparison) -> set[tuple[str, str]]:
    return {(pane.name, pane.text) for pane in entry.panes}


def _weights_of(adapter: Path) -> str:
    """The beginning of the SHA-256 of an adapter's weights; "" where they are not in a folder."""
    file = adapter / ADAPTER_FILE
    try:
        told = file.stat()
    except OSError:
        return ""
    return _digest(file, told.st_size, told.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def _bar(content: str) -> gr.HTML:
    return gr.HTML(value=None, choices=content)


def _choices(count: int) -> str:
    letters = {str(place): string.ascii_uppercase[place] for place in range(count)}
    buttons = "".join(
        f'<button type="button" class="vote-choice" data-choice="{choice}">{title}</button>'
        for choice, title in {**letters, **OTHERS}.items()
    )
    return (
        '<div class="vote" role="group" aria-labelledby="vote-question">'
        f'<p id="vote-question" role="status">Which caption is best?</p>{buttons}</div>'
    )


def _thanks(choice: Any, panes: Sequence[Pane]) -> str:
    who = ", ".join(
        f"{string.ascii_uppercase[place]} was {escape(pane.title)}"
        for place, pane in enumerate(panes)
    )
    said = OTHERS.get(choice) or string.ascii_uppercase[int(choice)]
    return (
        f'<p class="vote-thanks" role="status"><b>You chose {said}.</b> {who}. Your vote is kept '
        "without the photo and the captions.</p>"
    )
