"""The Compare tab: a photo, a pane for each contender, its ground truth, and a history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from qvla.captioning.loader import LineupLoader
from qvla.data.risc import Example
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.compare import comparison, history, photo
from qvla.ui.compare.badges import Badges
from qvla.ui.compare.certainty import Certainties
from qvla.ui.compare.choice import PaneChoice
from qvla.ui.compare.controls import decoding_arguments, decoding_controls, read_references
from qvla.ui.compare.endpoint import compare_endpoint
from qvla.ui.compare.entries import entry_of
from qvla.ui.compare.examples import example_grid
from qvla.ui.compare.gallery import GalleryPanel
from qvla.ui.compare.history_panel import HistoryPanel
from qvla.ui.compare.keeping import ONCE_OPENED, PANES_IN_LINK, Shown, VisitKeeping
from qvla.ui.compare.offers import LEAST, MOST, panes_of
from qvla.ui.compare.reopening import Reopening
from qvla.ui.compare.several.panel import SeveralPanel
from qvla.ui.compare.taking import PhotoTaking
from qvla.ui.compare.turns import Turns
from qvla.ui.compare.visits import Wanted
from qvla.ui.compare.voting.mask import is_hidden
from qvla.ui.compare.voting.panel import VotePanel
from qvla.ui.compare.weights import WeightsPanel
from qvla.ui.compare.zoom import Zoom
from qvla.ui.looked import LookedSection
from qvla.ui.panes import CAPTIONS, Pane, render_panes
from qvla.ui.photo_folder import PhotoFolder
from qvla.ui.queue_state import CAPTIONS as TURNS

# On narrow screens the panes lie out of sight.
SHOW_PANES = """() => {
  if (!document.querySelector(".photo-view img") || innerWidth >= 860) return;
  document.getElementById("panes").scrollIntoView({behavior: "smooth"});
}"""
LINK_PANES = f"""(names) => {{
  if (names.length < {LEAST} || names.length > {MOST}) return;
  const address = new URL(location);
  address.searchParams.set("{PANES_IN_LINK}", names.join(","));
  history.replaceState(history.state, "", address.href.replaceAll("%2C", ","));
}}"""
# These open a file of the app's own, for which nobody has to wait in the queue.
AT_ONCE = {"take_example", "take_gallery"}
Update = dict[Any, Any]

_picks = count(1)


class CompareTab:
    """Builds the tab inside an open `gr.Blocks` and wires its events."""

    def __init__(self, page: gr.Blocks, settings: Settings, loader: LineupLoader) -> None:
        self.settings = settings
        self.loader = loader
        self.examples = PhotoFolder(settings.examples)
        self.badges = Badges(settings, loader)
        self._lay_out()
        self.turns = Turns(
            settings,
            loader,
            CAPTIONS,
            photo=self.photo,
            panes=self.panes,
            shown=self.shown,
            stop=self.stop,
            certain=Certainties(settings),
            badge=self.badges,
        )
        self._wire(page)

    # ---- layout -------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        idle = panes_of(self.loader, ())
        self.shown = gr.State(idle)  # the panes as last rendered
        self.chosen = gr.State(None)  # the photo's FileData; a refused file does not get here
        self.filled = gr.State("")  # the references that came with an example
        # Another number for each photo that is captioned at once. Not a state: of a state's change
        # the browser hears only through the queue.
        self.picked = gr.Number(0, visible=False)
        self.weights = WeightsPanel(self.settings, self.loader)
        self.reopening = Reopening(self.settings, self.examples)
        with gr.Row(elem_classes="workbench"):
            with gr.Column(elem_classes="photo-column", min_width=280):
                self.photo = photo.photo_input(self.settings, zooms=True)
                with gr.Row(elem_classes="actions"):
                    self.start = gr.Button("Compare", variant="primary", elem_id="compare")
                    self.stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=80)
                self.voting = VotePanel(self.settings, self.loader)
                self.grid = example_grid(self.examples)
            with gr.Column(elem_classes="answer-column", min_width=280):
                gr.HTML("<h2>Captions</h2>", elem_classes="sr-only")
                self.panes = gr.HTML(render_panes(idle), elem_id="panes", label="Panes")
                self.voting.lay_out_bar()
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
                self.looked = LookedSection(self.settings, self.loader, CAPTIONS.ids)
                self.history = HistoryPanel()
                with gr.Row(elem_classes="settings-row"):
                    self.choice = PaneChoice(self.loader, badge=self.badges)
                    self.decoding = decoding_controls()
        self.gallery = GalleryPanel(self.settings.data)
        self.several = SeveralPanel(self.settings, self.loader)
        self.zoom = Zoom(self.settings, self.loader)
        self.variants = gr.Textbox("", visible=False, label="Variants")  # for programs alone
        self.result = gr.JSON(visible=False, label="Captions")

    # ---- events -------------------------------------------------------------------------------

    def _wire(self, page: gr.Blocks) -> None:
        quiet = {"show_progress": "hidden", "api_visibility": "undocumented"}
        captions = {"concurrency_limit": self.settings.concurrency, "concurrency_id": TURNS}
        own = Shown(self.photo, self.chosen, self.references, self.filled, self.panes, self.shown)
        self.keeping = keeping = VisitKeeping(
            *(self.settings, self.loader, self.examples),
            *(own, self.history, self.choice, self.turns.told),
        )
        ready = self.weights.wire(keeping.wire(page), self.panes, self.shown, self.choice)
        beside = [*self.looked.outputs, *self.voting.outputs]
        reopened = self.reopening.wire(
            *(own, self.history, self.choice, self.decoding),
            *(self._dropped, self.turns.told, beside),
        )
        for event, name in reopened:
            keeping.after(event, name)
        chosen = self.choice.wire(self.panes, self.shown, self.turns.is_busy)
        keeping.after(chosen, "choice")
        self.choice.names.input(None, inputs=[self.choice.names], js=LINK_PANES)

        take = PhotoTaking(
            self.settings, self.photo, self.chosen, self.references, self.filled, self._dropped
        )
        grid, gallery = self.grid, self.gallery.grid
        seats = self.choice.chosen
        before, who = [self.chosen, self.references, self.filled, seats], [self.chosen, seats]
        self.take = take
        outputs = [*own, self.picked, *beside]
        for trigger, handler, inputs, name in (
            (self.photo.upload, take.upload, [self.photo, *before], "take_photo"),
            (self.photo.oversize, take.too_large, [self.chosen], "refuse_large_photo"),
            (grid.pick, take.pick(self.examples), [grid, *who], "take_example"),
            (gallery.pick, take.pick(self.gallery.folder), [gallery, *who], "take_gallery"),
            (self.zoom.view.crop, self._take_part, [self.zoom.view, *before], "take_part"),
        ):
            taken = trigger(
                handler,
                inputs=inputs,
                outputs=outputs,
                queue=name not in AT_ONCE,
                js=ONCE_OPENED,
                api_name=name,
                **quiet,
            )
            keeping.after(taken, name)
            if handler == take.upload:
                self.reopening.wire_links(ready, taken)
        self.gallery.wire()
        opens, shown = take.bring(self.turns.told), [*own, *beside]
        keeping.after(self.several.wire(seats, self.decoding, opens, shown), "open_photo")
        self.zoom.wire(self.photo, self.chosen)

        asked = gr.on(
            [self.start.click, self.picked.change],
            self._ask,
            inputs=[
                *(self.chosen, self.references, self.choice.chosen, self.voting.tick),
                *self.decoding,
            ],
            outputs=[*self.turns.outputs, *beside],
            queue=False,
            api_name="ask_to_compare",
            **quiet,
        )
        asked.then(None, js=SHOW_PANES)
        run = asked.then(
            self._run,
            inputs=[self.chosen, self.history.visited],
            outputs=[*self.turns.outputs, *self.history.outputs, *self.voting.outputs],
            trigger_mode="multiple",  # for who left and came back; what has no use does nothing
            api_name="compare_and_keep",
            **captions,
            **quiet,
        )
        run.failure(
            self.turns.not_run,
            inputs=[self.shown],
            outputs=[self.panes, self.shown, self.stop],
            queue=False,
            api_name="not_run",
            **quiet,
        )
        self.looked.wire(self.chosen, self.shown)
        rescore = {
            "inputs": [self.references, self.shown, self.history.visited],
            "outputs": [self.panes, self.shown, *self.history.outputs],
        }
        scored = run.then(self._rescore, **rescore, api_name="score_after_comparison", **quiet)
        keeping.after(scored, "score_after_comparison")
        voted = self.voting.wire(self.history, self.turns.told, [self.panes, self.shown])
        scored = voted.then(self._rescore, **rescore, api_name="score_after_vote", **quiet)
        keeping.after(scored, "vote")
        scored = self.references.change(  # not `input`, which does not fire for pasted text
            self._rescore,
            **rescore,
            queue=False,
            trigger_mode="always_last",
            api_name="score",
            **quiet,
        )
        keeping.after(scored, "score")
        self.stop.click(
            self.turns.stop,
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

    def _dropped(self, seats: Sequence[str], request: gr.Request, new: Example | None) -> Update:
        voting = self.voting.cleared(request)
        at_once = {} if new is None else {self.picked: next(_picks)}
        return {**self.turns.dropped(seats, request), **self.looked.cleared(), **voting, **at_once}

    def _take_part(
        self,
        wanted: str | None,
        chosen: FileData | None,
        references: str,
        filled: str,
        seats: tuple[str, ...],
        request: gr.Request,
    ) -> Update:
        """A part of the photo takes the photo's place."""
        try:
            part = self.zoom.part(wanted, chosen)
        except QvlaError as error:
            return {self.photo: photo.refused(str(error), chosen)}
        taken = self.take.upload(part, chosen, references, filled, seats, request)
        return {**taken, self.picked: next(_picks)}

    # ---- the comparison -----------------------------------------------------------------------

    def _ask(
        self,
        chosen: FileData | None,
        references: str,
        seats: tuple[str, ...],
        blind: bool,
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
        mask = self.voting.mask(blind, seats)
        wanted = Wanted(chosen, read_references(references), options, tuple(seats), mask=mask)
        voting = self.voting.cleared(request)
        return {**self.turns.wait(wanted, request), **self.looked.cleared(), **voting}

    def _run(
        self, chosen: FileData | None, visited: tuple[history.Comparison, ...], request: gr.Request
    ) -> Iterator[Update]:
        outcome = yield from self.turns.run(chosen, request)
        if outcome is None:
            return
        entry, mask = entry_of(outcome, self.examples), outcome.run.wanted.mask
        asked = None if mask is None else self.voting.opened(entry, mask, visited, request)
        if asked is not None:
            yield asked
            return
        if mask is not None:
            yield {**self.turns.told(outcome.panes), **self.voting.not_opened()}
        yield self.history.show((*visited, entry))

    def _rescore(
        self,
        references: str,
        panes: tuple[Pane, ...],
        visited: tuple[history.Comparison, ...],
        request: gr.Request,
    ) -> Update:
        if self.turns.is_busy(request) or not any(
            pane.text and not is_hidden(pane) for pane in panes
        ):
            return {self.shown: gr.skip()}
        lines = read_references(references)
        panes = comparison.score(panes, lines)
        scored = history.with_references(visited, lines, panes)
        changed = self.history.show(scored) if scored != visited else {}
        return {**self.turns.told(panes), **changed}
