"""What visitors preferred in blind votes, as it is shown in the CIDEr tab."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import gradio as gr

from qvla.records import votes as kept
from qvla.records.votes import Vote
from qvla.settings import Settings
from qvla.ui.measured.exhibits import Exhibit
from qvla.ui.measured.tab import notes_html
from qvla.ui.tables import Cell, render_table, write_csv
from qvla.words import counted

NONE_YET = "No votes yet: turn on “Blind vote” in Compare."
MODEL = (
    "The chance of being preferred to it, with 95 % intervals, by Luce's choice model, which for "
    "two is Bradley and Terry's. A tie is shared evenly, between two half a win each, and every "
    "two count as having tied once besides, so that few votes say little."
)
CSV_COLUMNS = (
    "contender",
    "model",
    "adapter",
    "precision",
    "weights",
    "chosen",
    "votes",
    "against",
    "preferred",
    "lowest",
    "highest",
)


class VotesExhibit:
    """Lays itself out where it is made; not there where nobody may vote and nobody has."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        with gr.Row(elem_classes="exhibits", visible=False) as self.row:
            self.exhibit = Exhibit("cider-votes", "Preferred by visitors", plot=False)

    @property
    def outputs(self) -> list[Any]:
        return [self.row, *self.exhibit.outputs]

    def show(self) -> dict[Any, Any]:
        """The updates that show the votes as they are now, on the model that runs here."""
        found = kept.read(self.settings.votes_file)
        model = self.settings.model_name
        about = [one for one in found.votes if any(who.model == model for who in one.shown)]
        table, csv = _shown(about)
        damaged = f"{counted(found.damaged, 'line')} of the file cannot be read." * bool(
            found.damaged
        )
        notes = [note for note in (*_notes(about), damaged) if note]
        some = bool(about) or self.settings.may_vote
        return {
            self.row: gr.Row(visible=some),
            **self.exhibit.show(None, table + notes_html(*notes), csv),
        }


def _notes(votes: Sequence[Vote]) -> list[str]:
    if not votes:
        return [NONE_YET]
    ways = Counter(one.choice for one in votes if isinstance(one.choice, str))
    said = f"Visitors' votes, {len(votes):,} in all, on captions without names"
    parts = [counted(ways["tie"], "tie")] * bool(ways["tie"])
    if ways["none"]:
        parts.append(f"{ways['none']:,} that found all bad, which say nothing of who is better")
    return [f"{said}; {' and '.join(parts)} among them." if parts else f"{said}.", MODEL]


def _shown(votes: Sequence[Vote]) -> tuple[str, str | None]:
    """The table and the CSV file's path; neither where nobody was preferred to anybody."""
    from qvla.scoring.preferences import Choice, preferences

    choices = []
    for one in votes:
        names = tuple(who.identity for who in one.shown)
        if one.choice != "none":
            choices.append(Choice(names, None if one.choice == "tie" else names[one.choice]))
    if not choices:
        return "", None
    who = {one.identity: one for vote in votes for one in vote.shown}
    shown = dict.fromkeys(name for one in choices for name in one.shown)
    # Set against one without an adapter, where there is one.
    against = next((name for name in shown if who[name].adapter is None), next(iter(shown)))
    titles = _titles({name: who[name] for name in shown})
    rows, lines = [], []
    for name, one in preferences(choices, against).items():
        itself = name == against
        chance = "–" if itself else f"{one.probability:.0%} ({one.low:.0%} to {one.high:.0%})"
        chosen = f"{one.wins:.3g} of {counted(one.votes, 'vote')}"
        rows.append((titles[name], [Cell(chosen), Cell(chance)]))
        told = who[name]
        lines.append(
            (
                *(told.title, told.model, told.adapter, told.precision, told.weights),
                *(one.wins, one.votes, titles[against]),
                *(one.probability, one.low, one.high),
            )
        )
    columns = ("Contender", "Chosen", f"Preferred to {titles[against]}")
    table = render_table(columns, rows, caption="Preferred by visitors")
    return table, write_csv("qvla-votes", CSV_COLUMNS, lines)


def _titles(who: dict[str, kept.Voted]) -> dict[str, str]:
    """What each is called; others of the same title are told by their adapter and its weights."""
    same = Counter(one.title for one in who.values())
    return {
        name: one.title
        if same[one.title] == 1
        else f"{one.title} ({one.adapter or one.precision} {one.weights[:6]})".replace(" )", ")")
        for name, one in who.items()
    }
