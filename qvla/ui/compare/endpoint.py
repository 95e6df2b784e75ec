"""`/compare` for programs: a photo in, one object a variant out.

from gradio_client import Client, handle_file
captions = Client("http://127.0.0.1:7860").predict(handle_file("photo.jpg"), api_name="/compare")
print(captions["qvla"]["caption"])
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from qvla.captioning.contenders import MOST, check_names
from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.compare.certainty import Certainties
from qvla.ui.compare.comparison import compare
from qvla.ui.compare.controls import decoding_arguments, read_references
from qvla.ui.compare.history import pane_record
from qvla.ui.compare.photo import open_photo
from qvla.ui.panes import PaneState


def compare_endpoint(settings: Settings, loader: LineupLoader) -> Callable[..., dict[str, Any]]:
    """The function behind the endpoint. All but the photo may be left out."""

    def compare_photo(
        photo: FileData | None,
        references: str = "",
        max_new_tokens: float = 40,
        num_beams: float = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: str = "",
        variants: str = "",
    ) -> dict[str, Any]:
        """Captions one photo with every contender, by default base, adapter and qvla, or with those
        that `variants` names, with commas between: contenders, or tasks of the bank.

        Of each: caption, tokens, times in seconds, weights in bytes, how sure it is, whether the
        photo is unlike the training data, and with references (one a line) its scores.
        """
        options = decoding_arguments(max_new_tokens, num_beams, temperature, top_p, seed)
        try:
            image = open_photo(photo, settings).image
            names = names_of(loader, variants)
        except QvlaError as error:
            raise gr.Error(str(error), print_exception=False) from error
        lines = read_references(references)
        *_, panes = compare(loader, image, options, lines, Event(), names, Certainties(settings))
        if all(pane.state in (PaneState.FAILED, PaneState.UNAVAILABLE) for pane in panes):
            raise gr.Error(panes[0].message, print_exception=False)
        return {pane.name: pane_record(pane) for pane in panes}

    return compare_photo


def names_of(loader: LineupLoader, variants: str | None) -> list[str] | None:
    """Who is asked; None for all contenders. Raises QvlaError for names that nobody has."""
    names = [name.strip() for name in (variants or "").split(",") if name.strip()]
    if not names:
        return None
    if len(names) > MOST:
        raise QvlaError(f"At most {MOST} variants answer at once: name fewer.")
    return check_names(names, [one.name for one in (*loader.contenders, *loader.tasks)])
