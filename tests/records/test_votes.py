"""Votes on disk: whole lines or none, from many at once, and what cannot be read is left out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from qvla.records import votes
from qvla.records.votes import Vote, Voted, VoteError

SHOWN = (
    Voted(name="qvla", title="QVLA", model="mini", adapter="qvla", precision="nf4", weights="ab"),
    Voted(name="base", title="Base", model="mini", precision="fp32"),
)


def vote(choice: object = 0) -> Vote:
    return Vote(time=datetime.now(UTC), shown=SHOWN, choice=choice)


def test_votes_come_back_in_order(tmp_path: Path) -> None:
    file = tmp_path / "home" / "votes.jsonl"
    assert votes.read(file) == votes.Votes()
    cast = [vote(0), vote("tie"), vote(1), vote("none")]
    for one in cast:
        votes.add(one, file)
    assert votes.read(file) == votes.Votes(tuple(cast))
    assert [path.name for path in file.parent.iterdir()] == ["votes.jsonl"]
    assert list(votes.titles(cast).values()) == ["QVLA", "Base"]


def test_a_line_that_was_cut_off_goes_and_a_damaged_one_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    votes.add(vote(), file)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"vote": 1, "choice": 9}\nnot json\n' + whole[:20])
    votes.add(vote(1), file)
    found = votes.read(file)
    assert [one.choice for one in found.votes] == [0, 1] and found.damaged == 2
    assert whole[:20] not in file.read_bytes().splitlines()


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: votes.add(vote(), file), range(40)))
    assert len(votes.read(file).votes) == 40 and votes.read(file).damaged == 0


def test_where_nothing_can_be_written_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(votes, "PAUSE", 0)
    (tmp_path / "file").touch()
    with pytest.raises(VoteError, match="could not be kept"):
        votes.add(vote(), tmp_path / "file" / "votes.jsonl")


@pytest.mark.parametrize("choice", [2, -1, "b", None, 0.5])
def test_a_choice_is_of_one_that_was_shown(choice: object) -> None:
    with pytest.raises(ValidationError):
        vote(choice)
