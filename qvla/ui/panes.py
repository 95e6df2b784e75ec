"""The panes: from what a variant has said so far to HTML. Pure functions, no model, no app.

The browser side of `gr.HTML` compares old and new nodes in order and changes only what differs, so
every state of a pane has the same elements in the same order: nothing jumps while text streams in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape

from qvla.captioning.certainty import TIMES, repeated
from qvla.captioning.contenders import Contender, title_of
from qvla.ui import units
from qvla.ui.contenders import colour_style

CERTAINTY = (
    "From the mean log-probability of the caption's words: sure in the likeliest quarter of the "
    "captions that were scored, guessing in the least likely quarter."
)
VARIANT_ROLES = {
    "base": "The checkpoint as it is",
    "adapter": "Base and a bottleneck adapter",
    "qvla": "Base in 4-bit NF4 and its own adapter",
}


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


def render_panes(panes: Sequence[Pane], manner: Manner = CAPTIONS) -> str:
    """All panes side by side, and one sentence for screen readers at the start and at the end."""
    largest = max((pane.weight_bytes for pane in panes), default=0)
    longest = max((pane.seconds or 0.0 for pane in panes), default=0.0)
    names = [pane.name for pane in panes]
    articles = "".join(
        _article(pane, manner, colour_style(pane.name, names), largest, longest) for pane in panes
    )
    busy = any(pane.state.busy for pane in panes)
    said = escape(announcement(panes, manner))
    return (
        f'<p class="sr-only" role="status" aria-live="polite">{said}</p>'
        f'<div class="panes" data-count="{len(panes)}" aria-busy="{str(busy).lower()}">'
        f"{articles}</div>"
    )


def announcement(panes: Sequence[Pane], manner: Manner = CAPTIONS) -> str:
    """What a screen reader says: not every token, but that work began, and how it ended."""
    if any(pane.state.busy for pane in panes):
        return manner.being_made
    spoken = [_spoken(pane) for pane in panes if pane.state is not PaneState.IDLE]
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in spoken)


def _spoken(pane: Pane) -> str:
    certainty = f" ({pane.certainty})" if pane.text and pane.certainty else ""
    return f"{pane.title}{certainty}: {pane.text or pane.message}"


def _article(pane: Pane, manner: Manner, colour: str, largest: int, longest: float) -> str:
    heading = f"{manner.ids}-{escape(pane.name)}"
    scores = "".join(
        _figure(title, units.score(getattr(pane, field))) for field, title in manner.scores
    )
    return (
        f'<article class="pane" data-variant="{escape(pane.name)}" data-state="{pane.state.value}" '
        f'aria-labelledby="{heading}"{colour}>'
        f'<header><h3 id="{heading}">{escape(pane.title)}</h3>'
        f'<span class="precision">{escape(pane.precision.upper() or units.UNKNOWN)}</span>'
        f'<p class="identity">{_identity(pane)}</p></header>'
        f'<p class="caption" lang="en">{_caption(pane)}</p>'
        f'<p class="note">{_certainty(pane)}{escape(_note(pane))}</p>'
        '<dl class="figures">'
        + _figure("First token", units.seconds(pane.seconds_to_first_token))
        + _figure("Total", units.seconds(pane.seconds), _share(pane.seconds, longest))
        + _figure("Tokens / s", units.rate(pane.tokens_per_second))
        + _figure("Weights", units.size(pane.weight_bytes), _share(pane.weight_bytes, largest))
        + f'</dl><dl class="figures scores">{scores}</dl></article>'
    )


def _identity(pane: Pane) -> str:
    if pane.model:
        rest = f" + {pane.adapter}" if pane.adapter else ""
    else:
        rest = VARIANT_ROLES.get(pane.name, "")
    return f"<b>{escape(pane.model)}</b><span>{escape(rest)}</span>"


def _caption(pane: Pane) -> str:
    if not pane.text:
        return f'<span class="placeholder">{escape(pane.message)}</span>'
    pieces = pane.words or ((pane.text, False),)
    marked = "".join(
        f"<mark>{escape(word)}</mark>" if shared else f"<span>{escape(word)}</span>"
        for word, shared in pieces
    )
    return marked + ('<span class="cursor"></span>' if pane.state.busy else "")


def _certainty(pane: Pane) -> str:
    """How sure the model is of the caption, before the line below it; always the same element."""
    word = escape(pane.certainty) if pane.text else ""
    return f'<span class="certainty" data-word="{word}" title="{CERTAINTY}">{word}</span>'


def _note(pane: Pane) -> str:
    """The line below the caption: what happened, when that is not plain from the caption."""
    if pane.text and (pane.message or pane.scoring_fault):
        return pane.message or pane.scoring_fault
    if pane.state is PaneState.DONE:
        again = repeated(pane.text)
        said = f", “{again}” at least {TIMES} times" if again else ""
        return f"{pane.tokens} token{'' if pane.tokens == 1 else 's'}{said}"
    return ""


def _figure(name: str, value: str, share: float | None = None) -> str:
    bar = "" if share is None else f'<i class="bar" style="--share:{share:.3f}"></i>'
    return f"<div><dt>{name}</dt><dd>{value}</dd>{bar}</div>"


def _share(value: float | None, largest: float) -> float:
    return (value or 0) / largest if largest else 0.0
