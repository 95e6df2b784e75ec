"""`/ask` for programs: a photo and a question in, one object a variant out.

from gradio_client import Client, handle_file
answers = Client("http://127.0.0.1:7860").predict(
    handle_file("photo.jpg"), "How many ships are there?", api_name="/ask"
)
print(answers["qvla"]["answer"])
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from qvla.captioning.loader import LineupLoader
from qvla.data.questions import clean_question
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.ask.scoring import score_answers
from qvla.ui.compare.comparison import compare
from qvla.ui.compare.controls import decoding_arguments, read_references
from qvla.ui.compare.endpoint import names_of
from qvla.ui.compare.photo import open_photo
from qvla.ui.panes import ANSWERS, Pane, PaneState


def ask_endpoint(settings: Settings, loader: LineupLoader) -> Callable[..., dict[str, Any]]:
    """The function behind the endpoint. All but photo and question may be left out."""

    def ask_photo(
        photo: FileData | None,
        question: str,
        right: str = "",
        max_new_tokens: float = 40,
        num_beams: float = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: str = "",
        variants: str = "",
    ) -> dict[str, Any]:
        """Asks every contender about one photo, by default base, adapter and qvla, or those that
        `variants` names, with commas between: contenders, or tasks of the bank.

        Of each: answer, tokens, times in seconds, weights in bytes, and with the right answers (one
        a line) its scores.
        """
        options = decoding_arguments(max_new_tokens, num_beams, temperature, top_p, seed)
        lines = read_references(right)
        try:
            asked = clean_question(question or "")
            image = open_photo(photo, settings).image
            names = names_of(loader, variants)
        except QvlaError as error:
            raise gr.Error(str(error), print_exception=False) from error
        *_, panes = compare(
            *(loader, image, options, lines, Event(), names),
            question=asked,
            scored=score_answers,
        )
        if all(pane.state in (PaneState.FAILED, PaneState.UNAVAILABLE) for pane in panes):
            raise gr.Error(panes[0].message, print_exception=False)
        return {pane.name: answer_record(pane) for pane in panes}

    return ask_photo


def answer_record(pane: Pane) -> dict[str, Any]:
    """A pane's figures under the names that the command line uses too."""
    fields = ("model", "adapter", "precision", "tokens", "seconds_to_first_token", "seconds")
    return {
        **{name: getattr(pane, name) for name in (*fields, "tokens_per_second", "weight_bytes")},
        "state": pane.state.value,
        **({"message": pane.message} if pane.message else {}),
        "answer": pane.text,
        **{name: getattr(pane, name) for name, _ in ANSWERS.scores},
    }
