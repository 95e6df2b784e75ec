"""Questions to pick from: those whose answers are known of an example, or such as fit any
satellite photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from html import escape
from pathlib import Path

import gradio as gr

from qvla.data.risc import Example
from qvla.ui.ask.question_folder import QuestionFolder

GENERAL = (
    "Is there any road?",
    "Are there any trees?",
    "How many buildings are there?",
    "Which scene is this?",
    "What color are the roofs?",
    "Is this an urban area?",
)
SCRIPT = """
element.addEventListener("click", (event) => {
  const one = event.target.closest(".suggestion");
  if (!one) return;
  props.value = one.dataset.key;
  trigger("pick");
});
"""


class Known:
    """The questions with answers that lie beside a folder's photos, by photo."""

    def __init__(self, folder: QuestionFolder) -> None:
        self._folder = folder

    def about(self, photo: Path) -> list[Example]:
        """The questions about a photo of the folder, by its place; none of any other."""
        return self._questions.get(photo.resolve(), [])

    def answers(self, photo: Path | None, question: str) -> tuple[str, ...]:
        """The right answers to a question about this photo; none where they are not known."""
        found = [] if photo is None else self.about(photo)
        return next((one.references for one in found if one.question == question), ())

    @cached_property
    def _questions(self) -> dict[Path, list[Example]]:
        found: dict[Path, list[Example]] = {}
        for one in self._folder.questions().values():
            found.setdefault(one.image.resolve(), []).append(one)
        return found


def suggestions(questions: Sequence[str]) -> gr.HTML:
    """Buttons with questions. Event: `pick`; the value is the question that was picked."""
    return gr.HTML(
        None,
        listed=render_suggestions(questions),
        html_template="${listed}",
        js_on_load=SCRIPT,
        apply_default_css=False,
        elem_id="ask-suggestions",
        label="Suggestion",
    )


def render_suggestions(questions: Sequence[str]) -> str:
    items = "".join(
        f'<li><button type="button" class="suggestion" data-key="{escape(question)}">'
        f"{escape(question)}</button></li>"
        for question in questions
    )
    return f'<ul class="suggestions" aria-label="Questions to ask">{items}</ul>'
