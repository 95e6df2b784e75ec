"""What the figures of finished panes say, in sentences: who said the same, at what cost, and who
knows more.

Every clause is read from the panes and holds for this photo alone. One whose figures are missing is
left out, and what differs by little is called about the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from qvla.ui import units
from qvla.ui.pane import Pane, PaneState

CLEAR = 1.1  # how many times as much memory or time is more than about the same
CLEAR_SCORE = (
    0.1  # of the higher score, and of the score's unit, below which two are about the same
)
DOUBLE = 2.0  # from which on times are told as a multiple, not in per cent


def verdict(panes: Sequence[Pane], score: tuple[str, str] = ("cider_d", "CIDEr-D")) -> list[str]:
    """Sentences about panes that are done; none while one is busy, or with fewer than two.

    `score` is the field that holds a pane's score, and its name.
    """
    said = [pane for pane in panes if pane.state is PaneState.DONE and pane.text]
    if len(said) < 2 or any(pane.state.busy for pane in panes):
        return []
    sentences = [*_cost(said, base_of(panes)), *_knowledge(said, panes, *score)]
    return [sentence[0].upper() + sentence[1:] for sentence in sentences]


def shared_pass(panes: Sequence[Pane]) -> list[str]:
    """Whose times are the same because they are rows of one batch: these have their first token at
    one moment, to the last digit of the clock.
    """
    groups: dict[tuple[str, str, float], list[str]] = {}
    for pane in panes:
        if pane.state is PaneState.DONE and pane.seconds_to_first_token is not None:
            key = (pane.model, pane.precision, pane.seconds_to_first_token)
            groups.setdefault(key, []).append(pane.title)
    return [
        f"{_listed(titles)} share one pass through one backbone."
        for titles in groups.values()
        if len(titles) > 1
    ]


def base_of(panes: Sequence[Pane]) -> Pane | None:
    """The pane that others are measured against: Base, or else the first without an adapter."""
    named = next((pane for pane in panes if pane.name == "base"), None)
    bare = (pane for pane in panes if pane.model and pane.adapter is None and pane.weight_bytes)
    return named or next(bare, None)


def times_base(value: float | None, base: Pane | None, field: str) -> str:
    """A pane's figure against that of `base` in the same field, `0.26 × Base`; "" without one."""
    of_base = getattr(base, field) if base is not None else None
    if base is None or not value or not of_base:
        return ""
    ratio = value / of_base
    return f"{ratio:.{2 if ratio < 1 else 1}f} × {base.title}"


def _cost(said: Sequence[Pane], base: Pane | None) -> list[str]:
    """What the pane that saves the most took, beside the one that is most like it."""
    saver = _saver(said, base)
    others = [pane for pane in said if pane is not saver]
    same = [pane for pane in others if _words(pane) == _words(saver)]
    peer = max(same or others, key=lambda pane: (pane.adapter is not None, pane.weight_bytes))
    less = _ratio(peer.weight_bytes, saver.weight_bytes)
    longer = _ratio(saver.seconds, peer.seconds)
    memory = f"{less:.1f} times less memory" if less is not None and less >= CLEAR else ""
    if len(same) == 1:
        clauses = [f"in {memory}"] if memory else []
        clauses += [_beside(longer)] if longer is not None else []
        return [", ".join([f"{saver.title} said the same as {peer.title}", *clauses]) + "."]
    told = [_all_the_same(saver, same, said)] if same else []
    time = "" if longer is None else _took(longer)
    if memory and time:
        told.append(f"{saver.title} needs {memory} than {peer.title} and {time}.")
    elif memory:
        told.append(f"{saver.title} needs {memory} than {peer.title}.")
    elif longer is not None and not 1 / CLEAR < longer < CLEAR:
        told.append(f"{saver.title} {time} {'as' if longer >= DOUBLE else 'than'} {peer.title}.")
    return told


def _saver(said: Sequence[Pane], base: Pane | None) -> Pane:
    """Who holds the least memory beside the base, if clearly; else the last with an adapter, or the
    last.
    """
    others = [pane for pane in said if pane is not base]
    least = min(others, key=lambda pane: pane.weight_bytes)
    most = max(pane.weight_bytes for pane in said)
    if least.weight_bytes and most >= CLEAR * least.weight_bytes:
        return least
    adapted = [pane for pane in others if pane.adapter is not None]
    return (adapted or others)[-1]


def _knowledge(said: Sequence[Pane], panes: Sequence[Pane], field: str, score: str) -> list[str]:
    scored = sorted(
        (pane for pane in said if getattr(pane, field) is not None),
        key=lambda pane: getattr(pane, field),
    )
    if len(scored) < 2 or len({_words(pane) for pane in scored}) == 1:
        return []
    low, high = getattr(scored[0], field), getattr(scored[-1], field)
    if _about_the_same(low, high):
        named = _listed([pane.title for pane in said if pane in scored])
        who = "all" if len(scored) == len(said) > 2 else named
        return [f"{who} score about the same: {score} {units.score(low)} to {units.score(high)}."]
    worst = scored[0]
    leading = [pane for pane in scored if _about_the_same(getattr(pane, field), high)]
    values = [units.score(getattr(pane, field)) for pane in leading]
    names = [pane.title for pane in leading]
    if worst is base_of(panes):
        best = _listed([f"{value} of {name}" for value, name in zip(values, names, strict=True)])
        return [
            f"{worst.title} knows less of this photo: {score} {units.score(low)} against {best}."
        ]
    verb = "scores" if len(leading) == 1 else "score"
    degree = "higher" if len(scored) == 2 else "highest"
    return [
        f"{_listed(names)} {verb} {degree}: {score} {_listed(values)} against "
        f"{units.score(low)} of {worst.title}."
    ]


def _all_the_same(saver: Pane, same: Sequence[Pane], said: Sequence[Pane]) -> str:
    if len(same) == len(said) - 1:
        return f"all {len(said)} said the same."
    return f"{saver.title} said the same as {_listed([pane.title for pane in same])}."


def _beside(longer: float) -> str:
    """How long it took, after what was said the same."""
    if 1 / CLEAR < longer < CLEAR:
        return "in about the same time"
    if longer < 1:
        return f"in {_percent(1 - longer)} less time"
    if longer < DOUBLE:
        return f"{_percent(longer - 1)} slower"
    return f"taking {longer:.1f} times as long"


def _took(longer: float) -> str:
    if 1 / CLEAR < longer < CLEAR:
        return "took about as long"
    if longer < 1:
        return f"took {_percent(1 - longer)} less time"
    if longer < DOUBLE:
        return f"took {_percent(longer - 1)} longer"
    return f"took {longer:.1f} times as long"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ratio(value: float | None, of: float | None) -> float | None:
    return value / of if value and of else None


def _about_the_same(one: float, other: float) -> bool:
    return abs(one - other) < max(CLEAR_SCORE, CLEAR_SCORE * max(one, other))


def _words(pane: Pane) -> tuple[str, ...]:
    return tuple(re.findall(r"[\w'-]+", pane.text.lower()))


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
