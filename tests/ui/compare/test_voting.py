"""Blind votes: what is hidden, who may vote on what, and what is kept of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from gradio.utils import get_upload_folder

from qvla.captioning.loader import LineupLoader
from qvla.records import votes
from qvla.settings import Settings
from qvla.ui.compare.history import Comparison
from qvla.ui.compare.kept import kept, read_kept
from qvla.ui.compare.voting.ballots import MOST_IN_PERIOD, MOST_OPEN, PERIOD, Ballot, Ballots
from qvla.ui.compare.voting.mask import Mask, is_hidden
from qvla.ui.compare.voting.panel import VotePanel
from qvla.ui.measured.visitors_votes import VotesExhibit
from qvla.ui.panes import Pane, PaneState, render_panes
from tests.support.raw import RawVisitor
from tests.support.serving import add_adapters, write_photo
from tests.support.tiny import build_tiny

NAMES = ("base", "adapter", "qvla")
DECODING = (6, 1, 0, 1, "")
PANES = tuple(
    Pane(name, PaneState.DONE, text=f"said {number}", model="mini", adapter=name, precision="nf4",
         weight_bytes=10**6, tokens=3, seconds=1.5, seconds_to_first_token=0.25, cider_d=1.0,
         words=(("said", True),), certainty="sure", log_probability=-0.1)
    for number, name in enumerate(NAMES)
)  # fmt: skip
BALLOT = Ballot(Comparison("t", "p", "data:,", {}, (), PANES), ())


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("app")
    model = add_adapters(build_tiny(home / "model"))
    return Settings(model=str(model), home=home / "home", votes="on", device="cpu")


def test_a_mask_leaves_the_captions_alone_and_those_at_the_end_only() -> None:
    mask = Mask(("qvla", "base", "adapter"))
    hidden = mask.hide(PANES)
    assert [pane.title for pane in hidden] == ["A", "B", "C"]
    assert [pane.text for pane in hidden] == ["said 2", "said 0", "said 1"]
    bare = {replace(pane, name="", called="", text="") for pane in hidden}
    assert len(bare) == 1 and all(map(is_hidden, hidden))
    page = render_panes(hidden).lower()
    assert [word for word in (*NAMES, "mini", "nf4", "1.50 s", "1.00") if word in page] == []
    busy = (replace(PANES[0], state=PaneState.STREAMING), *PANES[1:])
    assert "said" not in render_panes(mask.hide(busy))
    assert len({replace(pane, name="", called="") for pane in mask.hide(busy)}) == 1
    assert mask.ordered(PANES) == (PANES[2], PANES[0], PANES[1])
    assert {Mask.of(NAMES).order for _ in range(200)} > {NAMES, NAMES[::-1]}
    assert read_kept(kept(None, "", "", hidden, ())).panes == ()


def test_a_ballot_is_taken_once_and_by_its_visit_alone() -> None:
    ballots = Ballots()
    ballots.hold("mine", BALLOT)
    assert ballots.take("another") is None and ballots.is_open("mine")
    assert ballots.take("mine") is BALLOT and ballots.take("mine") is None
    for number in range(MOST_OPEN + 1):
        ballots.hold(str(number), BALLOT)
    assert not ballots.is_open("0") and ballots.is_open("1")


def test_an_address_votes_so_often_and_again_later() -> None:
    clock = [0.0]
    ballots = Ballots(lambda: clock[0])
    assert all(ballots.allows("here") for _ in range(MOST_IN_PERIOD))
    assert not ballots.allows("here") and ballots.allows("there")
    clock[0] = PERIOD
    assert ballots.allows("here")


@pytest.mark.parametrize(
    ("votes", "on_space", "may"),
    [("auto", False, True), ("auto", True, False), ("on", True, True), ("off", False, False)],
)
def test_a_space_takes_no_votes_unless_it_is_asked_to(
    votes: str, on_space: bool, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    if on_space:
        monkeypatch.setenv("SPACE_ID", "someone/qvla")
    assert Settings(votes=votes).may_vote is may


def shown_blind(visitor: RawVisitor, photo: Path) -> str:
    """All that the page is sent from the press of the button until there is something to vote on,
    and what the browser is given to keep.
    """
    visitor.call("take_photo", visitor.upload(photo), "")
    asked = visitor.call("ask_to_compare", "", True, *DECODING)
    ran = visitor.call("compare_and_keep")
    scored = visitor.call("score_after_comparison", "one reference")
    kept = visitor.call("keep_after_score_after_comparison", "")
    looked = visitor.call("look_pane")
    return asked + ran + scored + kept + looked


def test_over_http_a_vote_is_of_what_was_shown_and_once(
    address: str, settings: Settings, loader: LineupLoader, tmp_path: Path
) -> None:
    visitor, stranger = RawVisitor(address, "visitor"), RawVisitor(address, "stranger")
    photo = write_photo(tmp_path / "river.png")
    assert "nothing to vote on" in visitor.call("vote", "0")
    told = shown_blind(visitor, photo)
    assert 'data-choice=\\"none\\"' in told and "Vote to see who wrote it" in told
    # what names a contender is in no answer: neither name, title, adapter, precision nor weights
    giving_away = ("base", "adapter", "qvla", "nf4", "fp32", "tok/s", " mb", " ms")
    for place in (str(settings.model), get_upload_folder()):  # the photo lies in the second
        told = told.replace(place, "")
    told = told.lower()
    assert [word for word in giving_away if word in told] == []

    assert "nothing to vote on" in stranger.call("vote", "0")
    for choice in ("3", "-1", "base", None, {"a": 1}, [0]):
        assert "Choose one of the captions" in visitor.call("vote", choice)
    assert not settings.votes_file.exists()
    revealed = visitor.call("vote", "1")
    assert "You chose B." in revealed and "river.png" in revealed
    assert all(f"was {title}" in revealed for title in ("Base", "Adapter", "QVLA"))
    assert "nothing to vote on" in visitor.call("vote", "1")

    (line,) = settings.votes_file.read_text().splitlines()
    record = json.loads(line)
    assert set(record) == {"vote", "time", "shown", "choice"} and record["choice"] == 1
    assert {one["name"] for one in record["shown"]} == set(NAMES)
    assert [bool(one["weights"]) for one in record["shown"]] == [
        one["name"] != "base" for one in record["shown"]
    ]
    assert "river" not in line and "said" not in line and str(tmp_path) not in line
    order = [one["title"] for one in record["shown"]]
    assert f"A was {order[0]}, B was {order[1]}, C was {order[2]}" in revealed

    again = shown_blind(visitor, photo)  # whose names are known by now
    assert "There is no vote on this one" in again and "data-choice" not in again
    assert "nothing to vote on" in visitor.call("vote", "0")

    other = write_photo(tmp_path / "field.png", seed=3)
    assert "data-choice" in shown_blind(visitor, other)
    visitor.call("take_photo", visitor.upload(photo), "")  # now nothing is open any more
    assert "nothing to vote on" in visitor.call("vote", "0")


def test_where_voting_is_off_nothing_is_hidden(settings: Settings, loader: LineupLoader) -> None:
    with gr.Blocks():
        on = VotePanel(settings, loader)
        off = VotePanel(settings.model_copy(update={"votes": "off"}), loader)
    assert sorted(on.mask(True, ()).order) == sorted(NAMES)
    assert on.mask(False, ()) is on.mask("yes", ()) is off.mask(True, ()) is None
    assert on.tick.visible and not off.tick.visible


def test_preferences_are_of_the_running_model_and_say_of_how_many(tmp_path: Path) -> None:
    settings = Settings(model="mini", home=tmp_path, votes="on")
    page = VotesExhibit(settings)

    def shown() -> str:
        return str(page.show()[page.exhibit.table])

    assert "No votes yet" in shown()
    who = [
        votes.Voted(name=name, title=name.title(), model="mini", adapter=adapter, precision="fp32")
        for name, adapter in (("adapter", "a"), ("base", None))
    ]
    for choice in (0, 0, 0, 1, "tie", "none"):
        one = votes.Vote(time="2026-01-01T10:00:00Z", shown=who, choice=choice)
        votes.add(one, settings.votes_file)
    other = [one.model_copy(update={"model": "other"}) for one in who]
    elsewhere = votes.Vote(time="2026-01-01T10:00:00Z", shown=other, choice=1)
    votes.add(elsewhere, settings.votes_file)
    table = shown()
    assert "Visitors' votes, 6 in all" in table.replace("&#x27;", "'")
    assert "1 tie and 1 that found all bad" in table
    assert "Preferred to Base" in table and "3.5 of 5 votes" in table
    assert "67% (" in table  # 3 wins, a half of the tie, and of the one that counts besides: 4 of 6
