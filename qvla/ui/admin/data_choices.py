"""The data that a form may name: of the settings, below their folders, uploaded, and of the Hub."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from qvla.data.columns import PRESETS
from qvla.data.examples import is_read_in_place, read_examples
from qvla.data.risc import TABLE
from qvla.errors import QvlaError
from qvla.methods.recipe import Recipe
from qvla.settings import Settings


class DataChoices:
    """Looks anew each time: data comes and goes while the app runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def dropdown(self, chosen: Path | None = None) -> gr.Dropdown:
        """All of it, with one that is chosen."""
        folders = self._folders()
        named = [(short(folder), str(folder)) for folder in folders]
        if chosen is not None and chosen not in folders:
            named.append((short(chosen), str(chosen)))
        choices = [*named, *((name, name) for name in PRESETS)]
        return gr.Dropdown(
            choices=list(dict.fromkeys(choices)), value=None if chosen is None else str(chosen)
        )

    def usual(self) -> gr.Dropdown:
        """The first that the form could be sent with as it is."""
        return self.dropdown(next(filter(_can_be_trained_on, self._folders()), None))

    def _folders(self) -> list[Path]:
        """The data on this machine that may be named: of the settings, and what was uploaded."""
        own = [] if self.settings.data is None else [self.settings.data]
        return [*own, *self._below_roots(), *_folders_in(self.settings.uploads)]

    def _below_roots(self) -> list[Path]:
        found = []
        for root in self.settings.data_roots:
            found += [root, *_folders_in(root)]
        return [folder for folder in found if (folder / TABLE).is_file()]


def short(place: str | Path) -> str:
    """A folder by its name, a hub id as it is."""
    return Path(place).name if Path(place).is_dir() else str(place)


def _folders_in(place: Path) -> list[Path]:
    try:
        inside = [one for one in place.iterdir() if not one.name.startswith(".")]
        return sorted(one for one in inside if one.is_dir())
    except OSError:
        return []


def _can_be_trained_on(folder: Path) -> bool:
    """Whether the form could be sent with this data and all other fields as they are."""
    if not is_read_in_place(folder):
        return True  # what a run writes out first is judged then
    usual = Recipe.model_fields
    splits = [*usual["splits"].default, *usual["eval_splits"].default]
    try:
        read_examples(folder, splits=splits)
    except QvlaError:
        return False
    return True
