"""The panes: from what a variant has said so far to HTML. Pure functions, no model, no app.

The browser side of `gr.HTML` compares old and new nodes in order and changes only what differs, so
every state of a pane has the same elements in the same order: nothing jumps while text streams in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from html import escape

from qvla.captioning.certainty import TIMES, repeated, unfamiliar_notes
from qvla.ui import units
from qvla.ui.compare.verdict import base_of, shared_pass, times_base, verdict
from qvla.ui.contenders import colour_style
from qvla.ui.glossary import explained, term
from qvla.ui.pane import ANSWERS, CAPTIONS, Manner, Pane, PaneState, idle_panes
from qvla.ui.sentences import as_sentence, marked, own_words, pieces_of

__all__ = [
    "ANSWERS",
    "CAPTIONS",
    "Manner",
    "Pane",
    "PaneState",
    "announcement",
    "idle_panes",
    "render_panes",
]

CERTAINTY = (
    "From the mean log-probability of the caption's words: sure in the likeliest quarter of the "
    "captions that were scored, guessing in the least likely quarter."
)
VARIANT_ROLES = {
    "base": "The checkpoint as it is",
    "adapter": "Base and a bottleneck adapter",
    "qvla": "Base in 4-bit NF4 and its own adapter",
}


def no_badge(pane: Pane) -> str:
    return ""


def render_panes(
    panes: Sequence[Pane], manner: Manner = CAPTIONS, badge: Callable[[Pane], str] = no_badge
) -> str:
    """All panes side by side below what they come to, and one sentence for screen readers at the
    start and at the end. `badge` tells what adapter a pane holds.
    """
    largest = max((pane.weight_bytes for pane in panes), default=0)
    longest = max((pane.seconds or 0.0 for pane in panes), default=0.0)
    names = [pane.name for pane in panes]
    own, base = _own_words(panes), base_of(panes)
    articles = "".join(
        _article(
            *(pane, manner, colour_style(pane.name, names)),
            *(largest, longest, base, own, badge(pane)),
        )
        for pane in panes
    )
    busy = any(pane.state.busy for pane in panes)
    said = escape(announcement(panes, manner))
    told = escape(" ".join(verdict(panes, manner.scores[0])))
    unfamiliar = unfamiliar_notes(panes)
    return (
        f'<p class="sr-only" role="status" aria-live="polite">{said}</p>'
        f'<p class="unfamiliar"{_hidden(not unfamiliar)}>{escape(" ".join(unfamiliar))}</p>'
        f'<p class="verdict">{told}</p>'
        f'<div class="panes" data-count="{len(panes)}" aria-busy="{str(busy).lower()}">'
        f'{articles}</div><p class="key">{_key(panes, own)}</p>'
    )


def announcement(panes: Sequence[Pane], manner: Manner = CAPTIONS) -> str:
    """What a screen reader says: not every token, but that work began, and how it ended."""
    if any(pane.state.busy for pane in panes):
        return manner.being_made
    spoken = [_spoken(pane) for pane in panes if pane.state is not PaneState.IDLE]
    ended = [text if text.endswith((".", "!", "?")) else f"{text}." for text in spoken]
    return " ".join([*unfamiliar_notes(panes), *ended, *verdict(panes, manner.scores[0])])


def _spoken(pane: Pane) -> str:
    certainty = f" ({pane.certainty})" if pane.text and pane.certainty else ""
    return f"{pane.title}{certainty}: {as_sentence(pane.text) or pane.message}"


def _own_words(panes: Sequence[Pane]) -> dict[str, set[str]]:
    """By pane the words that it alone has said; of none until all have ended."""
    said = [pane for pane in panes if pane.state is PaneState.DONE and pane.text]
    if len(said) < 2 or any(pane.state.busy for pane in panes):
        return {}
    words = own_words([_pieces(pane) for pane in said])
    return dict(zip((pane.name for pane in said), words, strict=True))


def _key(panes: Sequence[Pane], own: dict[str, set[str]]) -> str:
    """What the marks on words mean, hidden where there are none; and why times are the same."""
    shared = any(is_shared for pane in panes for _, is_shared in pane.words)
    return (
        f"<span{_hidden(not shared)}><mark>Filled</mark>: in the ground truth too.</span>"
        f"<span{_hidden(not any(own.values()))}>"
        '<span class="own">Underlined</span>: in this pane alone.</span>'
        f"<span>{escape(' '.join(shared_pass(panes)))}</span>"
    )


def _hidden(is_hidden: object) -> str:
    return " hidden" if is_hidden else ""


def _article(
    pane: Pane,
    manner: Manner,
    colour: str,
    largest: int,
    longest: float,
    base: Pane | None,
    own: dict[str, set[str]],
    badge: str,
) -> str:
    heading = f"{manner.ids}-{escape(pane.name)}"
    scores = "".join(
        _figure(explained(title), units.score(getattr(pane, field)))
        for field, title in manner.scores
    )
    other = None if base is None or base.name == pane.name else base
    time = times_base(pane.seconds, other, "seconds")
    weight = times_base(pane.weight_bytes, other, "weight_bytes")
    return (
        f'<article class="pane" data-variant="{escape(pane.name)}" data-state="{pane.state.value}" '
        f'aria-labelledby="{heading}"{colour}>'
        f'<header><h3 id="{heading}">{escape(pane.title)}</h3>'
        f'<span class="precision">{explained(pane.precision.upper() or units.UNKNOWN)}</span>'
        f'<p class="identity">{_identity(pane)}<span class="badge">{escape(badge)}</span></p>'
        "</header>"
        f'<p class="caption" lang="en">{_caption(pane, own.get(pane.name, ()))}</p>'
        f'<div class="below"><p class="note">{_certainty(pane)}{escape(_note(pane))}</p>'
        f"{_copy(pane, manner)}</div>"
        '<dl class="figures">'
        + _figure("First token", units.seconds(pane.seconds_to_first_token))
        + _figure("Total", units.seconds(pane.seconds), _share(pane.seconds, longest), time)
        + _figure(term("Token", "Tokens / s"), units.rate(pane.tokens_per_second))
        + _figure(
            "Weights", units.size(pane.weight_bytes), _share(pane.weight_bytes, largest), weight
        )
        + f'</dl><dl class="figures scores">{scores}</dl></article>'
    )


def _identity(pane: Pane) -> str:
    if pane.model:
        rest = f" + {pane.adapter}" if pane.adapter else ""
        rest += f" · {pane.remark}" if pane.remark else ""
    else:
        rest = VARIANT_ROLES.get(pane.name, "")
    return f"<b>{escape(pane.model)}</b><span>{escape(rest)}</span>"


def _caption(pane: Pane, own: Collection[str]) -> str:
    if not pane.text:
        return f'<span class="placeholder">{escape(pane.message)}</span>'
    return marked(_pieces(pane), own) + ('<span class="cursor"></span>' if pane.state.busy else "")


def _pieces(pane: Pane) -> Sequence[tuple[str, bool]]:
    return pane.words or pieces_of(pane.text)


def _certainty(pane: Pane) -> str:
    """How sure the model is of the caption, before the line below it; always the same element."""
    word = escape(pane.certainty) if pane.text else ""
    return f'<span class="certainty" data-word="{word}" title="{CERTAINTY}">{word}</span>'


def _copy(pane: Pane, manner: Manner) -> str:
    """A button that copies what was said, always there and hidden until it was."""
    hidden, said = _hidden(not pane.text or pane.state.busy), escape(as_sentence(pane.text))
    return (
        f'<button type="button" class="row-button copy"{hidden} data-copy="{said}" '
        'aria-live="polite">Copy'
        f'<span class="sr-only"> the {manner.what} of {escape(pane.title)}</span></button>'
    )


def _note(pane: Pane) -> str:
    """The line below the caption: what happened, when that is not plain from the caption."""
    if pane.text and (pane.message or pane.scoring_fault):
        return pane.message or pane.scoring_fault
    if pane.state is PaneState.DONE:
        again = repeated(pane.text)
        said = f", “{again}” at least {TIMES} times" if again else ""
        return f"{pane.tokens} token{'' if pane.tokens == 1 else 's'}{said}"
    return ""


def _figure(name: str, value: str, share: float | None = None, beside: str = "") -> str:
    """`share` is of the longest bar; `beside` stands small behind the value."""
    if share is None:
        return f"<div><dt>{name}</dt><dd>{value}</dd></div>"
    return (
        f"<div><dt>{name}</dt><dd>{value} <small>{escape(beside)}</small></dd>"
        f'<i class="bar" style="--share:{share:.3f}"></i></div>'
    )


def _share(value: float | None, largest: float) -> float:
    return (value or 0) / largest if largest else 0.0
