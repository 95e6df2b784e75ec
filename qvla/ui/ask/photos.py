"""The photos of an evaluation of answers on the page: small pictures, and one question opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from qvla.errors import QvlaError
from qvla.ui.ask.answered import Answered, read_answered, render_question, render_questions
from qvla.ui.ask.question_folder import QuestionFolder
from qvla.ui.grid import photo_grid
from qvla.ui.measured.evaluations import Evaluation
from qvla.ui.pager import Pager
from qvla.ui.photo_folder import ALL

Update = dict[Any, Any]
Find = Callable[[], Sequence[Evaluation]]

LEAD = "Each picture is a question; choose one to see what everyone answered."
# On narrow screens the opened question lies below all small pictures.
SHOW_QUESTION = """() => {
  const one = document.getElementById("ask-question-shown");
  if (one && one.getBoundingClientRect().top > innerHeight * 0.7) one.scrollIntoView();
}"""
QUIET = {"show_progress": "hidden", "api_visibility": "undocumented"}


class AnsweredPanel:
    """`find` gives the evaluations of answers, first the one to show first."""

    def __init__(self, folders: Sequence[QuestionFolder], find: Find) -> None:
        self.folders, self.find = folders, find
        self.shown = gr.State("")  # the stem of the evaluation whose questions are shown
        gr.HTML(f'<h3>Photos</h3><p class="lead">{LEAD}</p>', elem_classes="section-title")
        self.notice = gr.HTML(elem_id="ask-photos-notice", label="About the photos")
        self.count = gr.HTML(elem_id="ask-photos-count", label="Count")
        with gr.Row(visible=False, elem_classes=["filters", "photo-filters"]) as self.filters:
            self.show = gr.Dropdown([], label="Answered", min_width=180, elem_id="ask-show")
            self.kind = gr.Dropdown([ALL], value=ALL, label="Type", min_width=140)
            self.pager = Pager("ask")
        with gr.Row(elem_classes="evaluated-row"):
            self.grid = photo_grid("", elem_id="ask-grid", label="Question")
            self.opened = gr.HTML(elem_id="ask-question-shown", label="Opened question")
        self._wire()

    @property
    def outputs(self) -> list[Any]:
        controls = [self.filters, self.show, self.kind, *self.pager.outputs]
        return [self.shown, self.notice, self.count, *controls, self.grid, self.opened]

    def fill(self, stem: str, shown: str = "") -> Update:
        """Shows the questions of this evaluation, or of another one where it has none to show.

        `shown` is what is shown already: if it is the same, filters and opened question stay.
        """
        evaluations = list(self.find())
        wanted = [one for one in evaluations if one.stem == stem]
        others = [one for one in evaluations if one.stem != stem]
        sentence = ""
        for evaluation in wanted + others:
            try:
                answered = read_answered(evaluation, self.folders)
            except QvlaError as error:
                sentence = str(error) if evaluation in wanted else sentence
                continue
            if evaluation in others:
                sentence += f" These are the photos of {evaluation.title}."
            first = {} if evaluation.stem == shown else self._first(answered)
            return {self.shown: evaluation.stem, self.notice: _notice(sentence), **first}
        return {
            self.shown: "",
            self.notice: _notice(sentence),
            self.count: "",
            self.filters: gr.Row(visible=False),
            self.grid: gr.HTML(value=None, tiles=""),
            self.opened: "",
        }

    # ---- events -------------------------------------------------------------------------------

    def _wire(self) -> None:
        options = [self.shown, self.show, self.kind]
        page = [self.count, self.grid]
        self.pager.wire(self._turn, options, page)
        for control, name in ((self.show, "show_answered"), (self.kind, "show_type")):
            control.input(
                self._filter,
                inputs=options,
                outputs=[*page, *self.pager.outputs],
                api_name=name,
                **QUIET,
            )
        self.grid.pick(
            self._open,
            inputs=[self.shown, self.grid],
            outputs=[self.opened],
            api_name="open_question",
            **QUIET,
        ).then(None, js=SHOW_QUESTION)

    def _first(self, answered: Answered) -> Update:
        kinds = answered.kinds
        first = next(iter(answered.questions))
        return {
            self.filters: gr.Row(visible=True),
            self.show: gr.Dropdown(choices=answered.shows, value=ALL),
            self.kind: gr.Dropdown(choices=[ALL, *kinds], value=ALL, interactive=len(kinds) > 1),
            self.opened: render_question(answered, first),
            **self._page(answered, ALL, ALL, 1),
        }

    def _turn(self, stem: str, show: str, kind: str, number: int) -> Update:
        return self._page(self._answered(stem), show, kind, number)

    def _filter(self, stem: str, show: str, kind: str) -> Update:
        return self._page(self._answered(stem), show, kind, 1)

    def _open(self, stem: str, name: str | None) -> str:
        answered = self._answered(stem)
        if name not in answered.questions:
            raise gr.Error(
                f"There is no question {name!r} in this evaluation: choose another.",
                print_exception=False,
            )
        return render_question(answered, name)

    def _answered(self, stem: str) -> Answered:
        evaluation = next((one for one in self.find() if one.stem == stem), None)
        if evaluation is None:
            raise gr.Error("No evaluation is shown yet.", print_exception=False)
        try:
            return read_answered(evaluation, self.folders)
        except QvlaError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _page(self, answered: Answered, show: str, kind: str, number: int) -> Update:
        page = answered.page(kind, show, number)
        matching = f"{page.matching:,} question{'' if page.matching == 1 else 's'}"
        return {
            self.count: f'<p class="count" role="status">{matching}, page {page.number} of '
            f"{page.pages}</p>",
            **self.pager.show(page.number, page.pages),
            self.grid: gr.HTML(value=None, tiles=render_questions(answered, page)),
        }


def _notice(sentence: str) -> str:
    return f'<p class="notice">{escape(sentence.strip())}</p>' if sentence.strip() else ""
