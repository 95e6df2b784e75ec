"""Who may answer in the panes of Compare, and which of them a visitor has chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qvla.captioning.contenders import LineupError, check_names
from qvla.captioning.existing import by_method
from qvla.captioning.loader import LineupLoader
from qvla.ui.compare import comparison
from qvla.ui.panes import CAPTIONS, Manner, Pane, PaneState, idle_panes

LEAST, MOST = 2, 6  # panes of one's own choice


@dataclass(frozen=True)
class Offer:
    """A contender, or a task of the bank; `reason` tells in a sentence why it cannot be chosen."""

    name: str
    title: str
    reason: str = ""
    of_bank: bool = False


def offers(loader: LineupLoader) -> list[Offer]:
    """The contenders in the order of the line-up, then the bank's tasks, as they are now."""
    lineup = loader.lineup
    if lineup is None:
        offered = [Offer(one.name, one.title) for one in loader.contenders]
    else:
        offered = [Offer(one.name, one.title, one.reason) for one in lineup.variants()]
    offered += [Offer(one.name, one.title, of_bank=True) for one in loader.tasks]
    if loader.bank is not None:
        taken = [one.name for one in loader.contenders]
        problems = loader.bank.problems(taken)
        offered += [Offer("", name, why, of_bank=True) for name, why in problems.items()]
    return offered


def checked(names: Any, loader: LineupLoader) -> tuple[str, ...]:
    """A choice of panes as a visitor sent it. Raises LineupError with what to change."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise LineupError("Choose panes by their names.")
    if not LEAST <= len(set(names)) <= MOST:
        raise LineupError(f"Choose {LEAST} to {MOST} panes: until then they stay as they were.")
    return tuple(check_names(names, [one.name for one in offers(loader) if not one.reason]))


def answering(loader: LineupLoader, chosen: Sequence[str]) -> tuple[str, ...]:
    """Names of those who answer: the chosen, in their order, or else the first six.

    The line-up may have changed since: with too few of the chosen left, it is the first six again.
    """
    able = {one.name for one in offers(loader) if not one.reason}
    still = [name for name in chosen if name in able]
    if len(still) >= LEAST:
        return tuple(still[:MOST])
    return tuple(one.name for one in loader.contenders[:MOST])


def with_pane(loader: LineupLoader, chosen: Sequence[str], name: str) -> tuple[str, ...]:
    """The choice with this pane in it, in place of the last where there are as many as may be.

    Raises LineupError for a pane that cannot be had now.
    """
    able = [one.name for one in offers(loader) if not one.reason]
    check_names([name], able)
    now = answering(loader, chosen)
    if name in now:
        return tuple(chosen)
    return checked([*[one for one in now if one in able][: MOST - 1], name], loader)


def panes_with(loader: LineupLoader, model: str, precision: str | None = None) -> dict[str, Offer]:
    """What can be chosen with an adapter on this model, the first of each method, by its name; on
    a base that is held as `precision` says, where it says something.
    """
    able = {one.name: one for one in offers(loader) if not one.reason}
    there = [one for one in (*loader.contenders, *loader.tasks) if one.name in able]
    found = by_method(there, model, precision)
    return {method: able[one.name] for method, one in found.items()}


def panes_of(
    loader: LineupLoader, chosen: Sequence[str], manner: Manner = CAPTIONS
) -> tuple[Pane, ...]:
    """Empty panes of those who answer, with their identity as soon as it is known."""
    names = answering(loader, chosen)
    if loader.lineup is None:
        return idle_panes(comparison.planned(loader, names), manner)
    return comparison.lineup_panes(loader.lineup, names, PaneState.IDLE, manner.idle)
