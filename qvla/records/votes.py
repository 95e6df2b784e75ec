"""Visitors' blind votes on disk: a JSON object a line, of who was compared and which was preferred.

Nothing of the photo, the captions or the visitor is in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from qvla.appending import appending
from qvla.errors import QvlaError

TRIES, PAUSE = 20, 0.05  # for the file, which another process may have; seconds
_one_at_a_time = threading.Lock()


class VoteError(QvlaError):
    """A vote was not kept; the message says why."""


class Voted(BaseModel):
    """A contender as it was when it was voted on. `weights` begins the SHA-256 of its adapter's
    file, and is empty where there is none at hand.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    name: str
    title: str
    model: str
    adapter: str | None = None
    precision: str
    weights: str = ""

    @property
    def identity(self) -> str:
        """The same for the same weights, whatever they are called on a page."""
        return " ".join((self.model, self.adapter or "-", self.precision, self.weights or "-"))


class Vote(BaseModel):
    """One vote. `shown` are in the order in which the visitor saw them; `choice` is the place of
    the preferred one among them, from 0, or that they are alike, or that none is good.
    """

    model_config = ConfigDict(frozen=True)

    vote: Literal[1] = 1
    time: AwareDatetime
    shown: tuple[Voted, ...] = Field(min_length=2)
    choice: int | Literal["tie", "none"]

    @model_validator(mode="after")
    def _of_one_that_was_shown(self) -> Vote:
        if isinstance(self.choice, int) and not 0 <= self.choice < len(self.shown):
            raise ValueError("the choice is of none that was shown")
        return self


@dataclass(frozen=True)
class Votes:
    """All votes of a file, the oldest first; `damaged` lines are left out."""

    votes: tuple[Vote, ...] = ()
    damaged: int = 0


def add(vote: Vote, path: Path) -> None:
    """Appends a vote. Raises VoteError when it cannot be kept."""
    line = vote.model_dump_json().encode() + b"\n"
    with _one_at_a_time:
        for attempt in range(TRIES):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with appending(path, _whole_lines, doing="recording votes") as file:
                    file.add(line)
                return
            except (QvlaError, OSError) as error:
                if attempt == TRIES - 1:
                    raise VoteError("Your vote could not be kept: try again later.") from error
            time.sleep(PAUSE)


def read(path: Path) -> Votes:
    """The votes that are there; none where there is no file."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return Votes()
    votes = [vote for line in lines if (vote := _read(line)) is not None]
    return Votes(tuple(votes), len(lines) - len(votes))


def titles(votes: Sequence[Vote]) -> dict[str, str]:
    """What the contenders were called last, by identity, in the order in which they came first."""
    return {one.identity: one.title for vote in votes for one in vote.shown}


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _read(line: bytes) -> Vote | None:
    try:
        return Vote.model_validate_json(line)
    except ValidationError:
        return None
