"""What one pane of Compare or Ask holds: who answers, what was said so far, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from qvla.captioning.contenders import Contender, title_of


@dataclass(frozen=True)
class Manner:
    """What the panes of a tab hold: what it is called, what is said while it is made, how its
    scores are named by the fields that hold them, and how the elements' ids begin.
    """

    what: str
    being_made: str
    scores: tuple[tuple[str, str], ...]
    ids: str

    @property
    def idle(self) -> str:
        return f"The {self.what} will appear here."


CAPTIONS = Manner(
    "caption",
    "Captions are being written.",
    (("cider_d", "CIDEr-D"), ("rouge_l", "ROUGE-L")),
    "pane",
)
ANSWERS = Manner(
    "answer",
    "Answers are being given.",
    (("exact_match", "Exact match"), ("f1", "Token F1"), ("csns", "CSNS")),
    "ask-pane",
)


class PaneState(StrEnum):
    IDLE = "idle"
    WAITING = "waiting"
    STREAMING = "streaming"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"

    @property
    def busy(self) -> bool:
        return self in (PaneState.WAITING, PaneState.STREAMING)


@dataclass(frozen=True)
class Pane:
    """All that one pane shows; `message` stands where the caption or answer will, while there is
    none.

    `words` are its pieces and whether each is a word that a reference has too.
    """

    name: str
    state: PaneState = PaneState.IDLE
    message: str = ""
    model: str = ""
    adapter: str | None = None
    precision: str = ""
    weight_bytes: int = 0
    remark: str = ""  # of the precision
    text: str = ""
    tokens: int = 0
    seconds_to_first_token: float | None = None
    seconds: float | None = None
    cider_d: float | None = None
    rouge_l: float | None = None
    words: tuple[tuple[str, bool], ...] = ()
    scoring_fault: str = ""
    called: str = ""  # the contender's own title, where it is none of the default three
    log_probability: float | None = None  # of the finished caption, as the engine tells it
    unfamiliar: bool | None = None  # the photo, to the base; None where that is not known
    certainty: str = ""  # the word for it, where the contender has thresholds
    exact_match: float | None = None  # of an answer
    f1: float | None = None
    csns: float | None = None

    @property
    def title(self) -> str:
        return self.called or title_of(self.name)

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.tokens and self.seconds else None


def idle_panes(contenders: Sequence[Contender], manner: Manner = CAPTIONS) -> tuple[Pane, ...]:
    """Panes of contenders who have not been asked yet."""
    return tuple(Pane(one.name, message=manner.idle, called=one.title) for one in contenders)
