"""The Compare tab: a photo, a pane for each contender, its ground truth, and a history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from PIL import Image

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.compare import comparison, history, photo
from qvla.ui.compare.certainty import Certainties
from qvla.ui.compare.choice import PaneChoice
from qvla.ui.compare.controls import decoding_arguments, decoding_controls, read_references
from qvla.ui.compare.endpoint import compare_endpoint
from qvla.ui.compare.examples import example_grid
from qvla.ui.compare.gallery import GalleryPanel
from qvla.ui.compare.history_panel import HistoryPanel
from qvla.ui.compare.keeping import Shown, VisitKeeping
from qvla.ui.compare.offers import answering, panes_of
from qvla.ui.compare.taking import PhotoTaking
from qvla.ui.compare.visits import Run, Runs, Wanted
from qvla.ui.compare.weights import WeightsPanel
from qvla.ui.panes import Pane, PaneState, render_panes
from qvla.ui.photo_folder import PhotoFolder
from qvla.ui.pictures import HISTORY_PIXELS, data_uri
from qvla.ui.queue_state import CAPTIONS

# On narrow screens the panes lie out of sight.
SHOW_PANES = """() => {
  if (!document.querySelector(".photo-view img") || innerWidth >= 860) return;
  document.getElementById("panes").scrollIntoView({behavior: "smooth"});
}"""
NOT_TAKEN = "As many comparisons wait as may: try again in a moment."
UNFORESEEN = "The comparison ended with an unforeseen fault; the app's log has the details."
Update = dict[Any, Any]


class CompareTab:
    """Builds the tab inside an open `gr.Blocks` and wires its events."""

    def __init__(self, page: gr.Blocks, settings: Settings, loader: LineupLoader) -> None:
        self.settings = settings
        self.loader = loader
        self.certainties = Certainties(settings)
        self.runs = Runs()
        self.examples = PhotoFolder(settings.examples)
        self._lay_out()
        self._wire(page)

    # ---- layout -------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        idle = panes_of(self.loader, ())
        self.shown = gr.State(idle)  # the panes as last rendered
        self.chosen = gr.State(None)  # the photo's FileData; a refused file does not get here
        self.filled = gr.State("")  # the references that came with an example
        self.weights = WeightsPanel(self.settings, self.loader)
        with gr.Row(elem_classes="workbench"):
            with gr.Column(elem_classes="photo-column", min_width=280):
                self.photo = photo.photo_input(self.settings)
                with gr.Row(elem_classes="actions"):
                    self.start = gr.Button("Compare", variant="primary", elem_id="compare")
                    self.stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=80)
                self.grid = example_grid(self.examples)
            with gr.Column(elem_classes="answer-column", min_width=280):
                gr.HTML("<h2>Captions</h2>", elem_classes="sr-only")
                self.panes = gr.HTML(render_panes(idle), elem_id="panes", label="Panes")
                self.references = gr.Textbox(
                    "",  # not None, so that clients may leave it out
                    label="Ground truth",
                    info="One reference caption a line. Captions are scored against them "
                    "(CIDEr-D 0 to 10, ROUGE-L 0 to 1), and shared words are marked.",
                    lines=5,
                    max_lines=8,
                    max_length=20_000,
                    placeholder="Filled in for examples; type your own for your photo.",
                    elem_id="references",
                )
                self.choice = PaneChoice(self.loader)
                self.decoding = decoding_controls()
        self.gallery = GalleryPanel(self.settings.data)
        self.history = HistoryPanel()
        self.variants = gr.Textbox("", visible=False, label="Variants")  # for programs alone
        self.result = gr.JSON(visible=False, label="Captions")

    # ---- events -------------------------------------------------------------------------------

    def _wire(self, page: gr.Blocks) -> None:
        quiet = {"show_progress": "hidden", "api_visibility": "undocumented"}
        captions = {"concurrency_limit": self.settings.concurrency, "concurrency_id": CAPTIONS}
        own = Shown(self.photo, self.chosen, self.references, self.filled, self.panes, self.shown)
        self.keeping = keeping = VisitKeeping(
            *(self.settings, self.loader, self.examples),
            *(own, self.history, self.choice, self._told),
        )
        self.weights.wire(keeping.wire(page), self.panes, self.shown, self.choice)
        chosen = self.choice.wire(
            self.panes, self.shown, lambda request: self.runs.is_busy(_visit(request))
        )
        keeping.after(chosen, "choice")

        take = PhotoTaking(
            self.settings, self.photo, self.chosen, self.references, self.filled, self._dropped
        )
        grid, gallery = self.grid, self.gallery.grid
        seats = self.choice.chosen
        before, who = [self.chosen, self.references, self.filled, seats], [self.chosen, seats]
        for trigger, handler, inputs, name in (
            (self.photo.upload, take.upload, [self.photo, *before], "take_photo"),
            (self.photo.oversize, take.too_large, [self.chosen], "refuse_large_photo"),
            (grid.pick, take.pick(self.examples), [grid, *who], "take_example"),
            (gallery.pick, take.pick(self.gallery.folder), [gallery, *who], "take_gallery"),
        ):
            taken = trigger(handler, inputs=inputs, outputs=list(own), api_name=name, **quiet)
            keeping.after(taken, name)
        self.gallery.wire()

        run = self.start.click(
            self._ask,
            inputs=[self.chosen, self.references, self.choice.chosen, *self.decoding],
            outputs=[self.photo, self.panes, self.shown, self.stop],
            queue=False,
            api_name="ask",
            **quiet,
        ).then(
            self._run,
            inputs=[self.chosen, self.history.visited],
            outputs=[self.photo, self.panes, self.shown, self.stop, *self.history.outputs],
            trigger_mode="multiple",  # for who left and came back; what has no use does nothing
            api_name="compare_and_keep",
            **captions,
            **quiet,
        )
        run.failure(
            self._not_run,
            inputs=[self.shown],
            outputs=[self.panes, self.shown, self.stop],
            queue=False,
            api_name="not_run",
            **quiet,
        )
        self.start.click(None, js=SHOW_PANES)
        rescore = {
            "inputs": [self.references, self.shown, self.history.visited],
            "outputs": [self.panes, self.shown, *self.history.outputs],
        }
        scored = run.then(self._rescore, **rescore, api_name="score_after_comparison", **quiet)
        keeping.after(scored, "score_after_comparison")
        scored = self.references.change(  # not `input`, which does not fire for pasted text
            self._rescore, **rescore, trigger_mode="always_last", api_name="score", **quiet
        )
        keeping.after(scored, "score")
        self.stop.click(
            self._stop,
            inputs=[self.shown],
            outputs=[self.panes, self.shown, self.stop],
            queue=False,
            api_name="stop",
            **quiet,
        )
        cleared = self.history.clear.click(
            lambda: self.history.show(()),
            outputs=self.history.outputs,
            api_name="clear_history",
            **quiet,
        )
        keeping.after(cleared, "clear_history")
        gr.Button(visible=False).click(
            compare_endpoint(self.settings, self.loader),
            inputs=[self.photo, self.references, *self.decoding, self.variants],
            outputs=[self.result],
            api_name="compare",
            **captions,
        )

    def open_on(self, event: Any, name: Any, api_name: str) -> Any:
        """Has an event of another tab open the pane that the component `name` holds the name of;
        returns the event.
        """
        opened = self.choice.open_on(event, name, api_name)
        self.keeping.after(opened, api_name)
        return opened

    def _dropped(self, seats: Sequence[str], request: gr.Request) -> Update:
        """Of the photo before: captions to come are stopped, and the panes emptied."""
        self.runs.stop(_visit(request), discard=True)
        return self._told(panes_of(self.loader, seats))

    # ---- the comparison -----------------------------------------------------------------------

    def _ask(
        self,
        chosen: FileData | None,
        references: str,
        seats: tuple[str, ...],
        max_new_tokens: float,
        num_beams: float,
        temperature: float,
        top_p: float,
        seed: str,
        request: gr.Request,
    ) -> Update:
        """At the press of the button, whoever else waits: from here on there is a turn to wait for,
        which `_run` takes.
        """
        if chosen is None:
            return {self.photo: photo.refused("Choose a photo first.", None)}
        options = decoding_arguments(max_new_tokens, num_beams, temperature, top_p, seed)
        wanted = Wanted(chosen, read_references(references), options, tuple(seats))
        if not self.runs.ask(_visit(request), wanted):
            return {self.shown: gr.skip()}
        panes = comparison.waiting(panes_of(self.loader, seats))
        return {
            self.photo: photo.PhotoInput(problem=""),
            self.stop: gr.Button(interactive=True),
            **self._told(panes),
        }

    def _run(
        self, chosen: FileData | None, visited: tuple[history.Comparison, ...], request: gr.Request
    ) -> Iterator[Update]:
        visit = _visit(request)
        run = self.runs.begin(visit)
        if run is None:
            yield {self.shown: gr.skip()}
            return
        panes: tuple[Pane, ...] = ()
        try:
            image = photo.open_photo(run.wanted.photo, self.settings).image
            wanted = run.wanted
            names = answering(self.loader, wanted.seats)
            for panes in comparison.compare(
                self.loader,
                image,
                wanted.options,
                wanted.references,
                run.stopped,
                names,
                self.certainties,
            ):
                if run.discarded:
                    break
                yield self._told(panes)
        except QvlaError as error:  # of the photo, which may have been swept away meanwhile
            yield {
                self.photo: photo.refused(str(error), chosen),
                **self._told(panes_of(self.loader, run.wanted.seats)),
            }
        finally:
            self.runs.end(visit, run)
        over = {self.stop: gr.Button(interactive=self.runs.is_busy(visit))}
        if run.discarded or not any(pane.text for pane in panes):
            yield over
            return
        entry = _entry(run, image, panes)
        yield {**over, **self.history.show((*visited, entry))}

    def _not_run(self, panes: tuple[Pane, ...], request: gr.Request) -> Update:
        """The queue is full, or what took the turn failed in a way that no pane tells."""
        waited = self.runs.stop(_visit(request), discard=True)
        sentence = NOT_TAKEN if waited else UNFORESEEN
        return {
            self.stop: gr.Button(interactive=False),
            **self._told(comparison.ended(panes, PaneState.FAILED, sentence)),
        }

    def _rescore(
        self,
        references: str,
        panes: tuple[Pane, ...],
        visited: tuple[history.Comparison, ...],
        request: gr.Request,
    ) -> Update:
        if self.runs.is_busy(_visit(request)) or not any(pane.text for pane in panes):
            return {self.shown: gr.skip()}
        lines = read_references(references)
        panes = comparison.score(panes, lines)
        scored = history.with_references(visited, lines, panes)
        changed = self.history.show(scored) if scored != visited else {}
        return {**self._told(panes), **changed}

    def _stop(self, panes: tuple[Pane, ...], request: gr.Request) -> Update:
        """Ends what runs, which then tells the panes; who still waits leaves the queue."""
        if not self.runs.stop(_visit(request)):
            return {self.shown: gr.skip()}
        return {
            self.stop: gr.Button(interactive=False),
            **self._told(comparison.ended(panes, PaneState.STOPPED, comparison.LEFT)),
        }

    def _told(self, panes: tuple[Pane, ...]) -> Update:
        return {self.panes: render_panes(panes), self.shown: panes}


def _entry(run: Run, image: Image.Image, panes: tuple[Pane, ...]) -> history.Comparison:
    return history.Comparison(
        time=history.now(),
        photo=photo.photo_name(run.wanted.photo),
        thumbnail=data_uri(image, HISTORY_PIXELS),
        decoding=run.wanted.options,
        references=run.wanted.references,
        panes=panes,
    )


def _visit(request: gr.Request) -> str:
    return request.session_hash or ""
