"""The Ask tab: a photo, a question, and a pane for each contender's answer beside the right one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from qvla.captioning.loader import LineupLoader
from qvla.data.questions import LONGEST_QUESTION, clean_question
from qvla.data.risc import Example
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.ask.endpoint import ask_endpoint
from qvla.ui.ask.measured import MeasuredAnswers
from qvla.ui.ask.question_folder import QuestionFolder
from qvla.ui.ask.reported import render_reported
from qvla.ui.ask.scoring import score_answers
from qvla.ui.ask.suggestions import GENERAL, Known, render_suggestions, suggestions
from qvla.ui.compare import photo
from qvla.ui.compare.choice import PaneChoice
from qvla.ui.compare.controls import decoding_arguments, decoding_controls, read_references
from qvla.ui.compare.examples import example_grid
from qvla.ui.compare.offers import answering, panes_of
from qvla.ui.compare.taking import PhotoTaking
from qvla.ui.compare.turns import Turns
from qvla.ui.compare.visits import Wanted
from qvla.ui.looked import LookedSection
from qvla.ui.panes import ANSWERS, Pane, PaneState, render_panes
from qvla.ui.photo_folder import PhotoFolder
from qvla.ui.queue_state import CAPTIONS

# On narrow screens the panes lie out of sight.
SHOW_PANES = """() => {
  if (!document.querySelector("#ask-photo img") || innerWidth >= 860) return;
  document.getElementById("ask-panes").scrollIntoView({behavior: "smooth"});
}"""
QUIET = {"show_progress": "hidden", "api_visibility": "undocumented"}
Update = dict[Any, Any]


class AskTab:
    """Builds the tab inside an open `gr.Blocks` and wires its events."""

    def __init__(self, page: gr.Blocks, settings: Settings, loader: LineupLoader) -> None:
        self.settings, self.loader = settings, loader
        self.examples = PhotoFolder(settings.examples)
        folders = [QuestionFolder(path) for path in (settings.examples, settings.data) if path]
        self.known = Known(folders[0])
        self._lay_out(folders)
        self.turns = Turns(
            settings,
            loader,
            ANSWERS,
            photo=self.photo,
            panes=self.panes,
            shown=self.shown,
            stop=self.stop,
            scored=score_answers,
        )
        self._wire()

    # ---- layout -------------------------------------------------------------------------------

    def _lay_out(self, folders: Sequence[QuestionFolder]) -> None:
        idle = panes_of(self.loader, (), ANSWERS)
        self.shown = gr.State(idle)  # the panes as last rendered
        self.chosen = gr.State(None)  # the photo's FileData
        self.filled = gr.State("")  # the right answer that is known of an example
        self.example = gr.State("")  # its place, where the photo is one
        self.asked = gr.State("")  # the question that the panes answer
        with gr.Row(elem_classes="workbench"):
            with gr.Column(elem_classes="photo-column", min_width=280):
                self.photo = photo.photo_input(self.settings, "ask-photo")
                self.question = gr.Textbox(
                    "",
                    label="Question",
                    placeholder="How many ships are there?",
                    max_length=LONGEST_QUESTION,
                    max_lines=3,
                    submit_btn=False,
                    elem_id="ask-question",
                )
                self.problem = gr.HTML("", elem_id="ask-problem", label="Problem")
                with gr.Row(elem_classes="actions"):
                    self.start = gr.Button("Ask", variant="primary", elem_id="ask")
                    self.stop = gr.Button(
                        "Stop", interactive=False, elem_id="ask-stop", min_width=80
                    )
                self.suggestions = suggestions(GENERAL)
                self.grid = example_grid(self.examples, "ask-examples")
            with gr.Column(elem_classes="answer-column", min_width=280):
                gr.HTML("<h2>Answers</h2>", elem_classes="sr-only")
                self.panes = gr.HTML(
                    render_panes(idle, ANSWERS), elem_id="ask-panes", label="Panes"
                )
                self.note = gr.HTML("", elem_id="ask-vocabulary", label="Words")
                self.right = gr.Textbox(
                    "",
                    label="Right answer",
                    info="One a line, where several are right. Answers are scored against it: "
                    "exact match, token F1 and CSNS, each 0 to 1.",
                    lines=1,
                    max_lines=4,
                    max_length=20_000,
                    placeholder="Filled in where it is known; type your own for your photo.",
                    elem_id="ask-right",
                )
                self.looked = LookedSection(self.settings, self.loader, ANSWERS.ids)
                self.choice = PaneChoice(self.loader, ANSWERS)
                self.decoding = decoding_controls("ask-decoding")
        with gr.Column(elem_classes="exhibit", elem_id="ask-measured"):
            self.measured = MeasuredAnswers(self.settings, folders)
        with gr.Column(elem_classes="exhibit", elem_id="ask-reported"):
            gr.HTML("<h3>Reported elsewhere</h3>", elem_classes="section-title")
            gr.HTML(render_reported(), label="Reported")
        self.variants = gr.Textbox("", visible=False, label="Variants")  # for programs alone
        self.result = gr.JSON(visible=False, label="Answers")

    # ---- events -------------------------------------------------------------------------------

    def opened_with(self, tab: gr.Tab) -> None:
        """When the tab is opened idle panes get their identity, the choice who there is, and the
        table what was measured meanwhile.
        """
        tab.select(
            self._opened,
            inputs=[
                self.shown,
                self.choice.chosen,
                self.measured.chooser,
                self.measured.photos.shown,
            ],
            outputs=[self.panes, self.shown, *self.choice.outputs, *self.measured.outputs],
            queue=False,
            api_name="open_ask",
            **QUIET,
        )

    def _wire(self) -> None:
        turn = {"concurrency_limit": self.settings.concurrency, "concurrency_id": CAPTIONS}
        self.choice.wire(self.panes, self.shown, self.turns.is_busy)
        take = PhotoTaking(
            self.settings, self.photo, self.chosen, self.right, self.filled, self._dropped
        )
        seats = self.choice.chosen
        before = [self.chosen, self.right, self.filled, seats]
        about = [self.question, self.suggestions, self.example, self.asked, self.note, self.problem]
        taken = [*self.turns.outputs, *before[:3], *about, *self.looked.outputs]
        for trigger, handler, inputs, name in (
            (self.photo.upload, take.upload, [self.photo, *before], "take_photo_to_ask"),
            (self.photo.oversize, take.too_large, [self.chosen], "refuse_large_photo_to_ask"),
            (
                self.grid.pick,
                take.pick(self.examples),
                [self.grid, self.chosen, seats],
                "take_example_to_ask",
            ),
        ):
            trigger(handler, inputs=inputs, outputs=taken, api_name=name, **QUIET)
        self.suggestions.pick(
            self._suggested,
            inputs=[self.suggestions, self.example],
            outputs=[self.question, self.right, self.filled],
            queue=False,
            api_name="suggest",
            **QUIET,
        )
        ask = {
            "fn": self._ask,
            "inputs": [self.chosen, self.question, self.right, seats, *self.decoding],
            "outputs": [*self.turns.outputs, *about[3:], *self.looked.outputs],
            "queue": False,
            **QUIET,
        }
        for event, name in ((self.start.click, "begin"), (self.question.submit, "begin_by_enter")):
            run = event(**ask, api_name=f"ask_{name}").then(
                self._run,
                inputs=[self.chosen],
                outputs=[*self.turns.outputs, self.note],
                trigger_mode="multiple",  # for who left and came back; what has no use does nothing
                api_name=f"ask_{name}_run",
                **turn,
                **QUIET,
            )
            run.failure(
                self.turns.not_run,
                inputs=[self.shown],
                outputs=self.turns.outputs,
                queue=False,
                api_name=f"ask_{name}_not_run",
                **QUIET,
            )
            self._scores_after(run.then, f"ask_{name}_scored")
            event(None, js=SHOW_PANES)
        self._scores_after(self.right.change, "score_answers", trigger_mode="always_last")
        self.stop.click(
            self.turns.stop,
            inputs=[self.shown],
            outputs=self.turns.outputs,
            queue=False,
            api_name="stop_asking",
            **QUIET,
        )
        self.looked.wire(self.chosen, self.shown, self.asked)
        gr.Button(visible=False).click(
            ask_endpoint(self.settings, self.loader),
            inputs=[self.photo, self.question, self.right, *self.decoding, self.variants],
            outputs=[self.result],
            api_name="ask",
            **turn,
        )

    def _scores_after(self, event: Any, name: str, **options: Any) -> None:
        event(
            self._rescore,
            inputs=[self.right, self.shown],
            outputs=[self.panes, self.shown],
            api_name=name,
            **options,
            **QUIET,
        )

    # ---- handlers -----------------------------------------------------------------------------

    def _opened(
        self, now: tuple[Pane, ...], seats: tuple[str, ...], evaluation: str | None, photos: str
    ) -> Update:
        update = {**self.choice.show(seats), **self.measured.fill(evaluation, photos)}
        if all(pane.state is PaneState.IDLE for pane in now):
            update |= self.turns.idle(seats)
        return update

    def _dropped(
        self, seats: Sequence[str], request: gr.Request, example: Example | None
    ) -> Update:
        """An example comes with its first question, and the right answer to it."""
        update = {
            **self.turns.dropped(seats, request),
            **self.looked.cleared(),
            self.asked: "",
            self.note: "",
            self.problem: "",
            self.example: "",
            self.suggestions: gr.HTML(value=None, listed=render_suggestions(GENERAL)),
        }
        if example is None:
            return update
        known = self.known.about(example.image)
        first = "\n".join(known[0].references) if known else ""
        update |= {self.right: first, self.filled: first, self.example: str(example.image)}
        if known:
            buttons = render_suggestions([one.question for one in known])
            update |= {
                self.question: known[0].question,
                self.suggestions: gr.HTML(value=None, listed=buttons),
            }
        return update

    def _suggested(self, picked: object, example: str) -> Update:
        try:
            question = clean_question(picked if isinstance(picked, str) else "")
        except QvlaError as error:
            raise gr.Error(str(error), print_exception=False) from error
        right = "\n".join(self.known.answers(Path(example) if example else None, question))
        return {self.question: question, self.right: right, self.filled: right}

    def _ask(
        self,
        chosen: FileData | None,
        question: str,
        right: str,
        seats: tuple[str, ...],
        max_new_tokens: float,
        num_beams: float,
        temperature: float,
        top_p: float,
        seed: str,
        request: gr.Request,
    ) -> Update:
        if chosen is None:
            return {self.photo: photo.refused("Choose a photo first.", None)}
        options = decoding_arguments(max_new_tokens, num_beams, temperature, top_p, seed)
        try:
            asked = clean_question(question or "")
        except QvlaError as error:
            said = f'<p class="photo-problem" role="alert">{escape(str(error))}</p>'
            return {self.problem: said}
        if self.turns.is_busy(request):
            return {self.shown: gr.skip()}
        wanted = Wanted(chosen, read_references(right), options, tuple(seats), asked)
        return {
            **self.turns.wait(wanted, request),
            **self.looked.cleared(),
            self.asked: asked,
            self.problem: "",
            self.note: "",
        }

    def _run(self, chosen: FileData | None, request: gr.Request) -> Iterator[Update]:
        outcome = yield from self.turns.run(chosen, request)
        lineup = self.loader.lineup
        if outcome is None or lineup is None:
            return
        from qvla.captioning.vocabulary import vocabulary_notes

        wanted = outcome.run.wanted
        notes = vocabulary_notes(lineup, answering(self.loader, wanted.seats), wanted.question)
        said = "".join(f'<p class="photo-note" role="status">{escape(one)}</p>' for one in notes)
        yield {self.note: said}

    def _rescore(self, right: str, panes: tuple[Pane, ...], request: gr.Request) -> Update:
        if self.turns.is_busy(request) or not any(pane.text for pane in panes):
            return {self.shown: gr.skip()}
        return self.turns.told(score_answers(panes, read_references(right)))
