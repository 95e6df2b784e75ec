"""The Compare tab: a photo, a pane for each contender, its ground truth, and a history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.compare import comparison, history
from qvla.ui.compare.controls import decoding_arguments, decoding_controls, read_references
from qvla.ui.compare.endpoint import compare_endpoint
from qvla.ui.compare.gallery import GalleryPanel
from qvla.ui.compare.photo import (
    in_cache,
    open_photo,
    photo_input,
    photo_name,
    refused,
    shown,
    too_large,
)
from qvla.ui.compare.visits import Runs
from qvla.ui.compare.weights import WeightsPanel
from qvla.ui.grid import photo_grid, render_tiles, tiles_of
from qvla.ui.panes import Pane, idle_panes, render_panes
from qvla.ui.photo_folder import PhotoFolder, examples_or_none
from qvla.ui.pictures import HISTORY_PIXELS, data_uri

# Requests may have to wait for others; and on narrow screens the panes lie out of sight.
ON_START = """() => {
  if (!document.querySelector(".photo-view img")) return;
  for (const text of document.querySelectorAll(".pane .placeholder")) {
    text.textContent = "Waiting for a turn…";
  }
  if (innerWidth < 860) document.getElementById("panes").scrollIntoView({behavior: "smooth"});
}"""
Update = dict[Any, Any]


class CompareTab:
    """Builds the tab inside an open `gr.Blocks` and wires its events."""

    def __init__(self, page: gr.Blocks, settings: Settings, loader: LineupLoader) -> None:
        self.settings = settings
        self.loader = loader
        self.runs = Runs()
        self.examples = PhotoFolder(settings.examples)
        self._lay_out()
        self._wire(page)

    # ---- layout -------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self.shown = gr.State(idle_panes(self.loader.contenders))  # the panes as last rendered
        self.visited = gr.State(())  # history.Comparison, oldest first
        self.filled = gr.State("")  # the references that came with an example
        self.weights = WeightsPanel(self.settings, self.loader)
        with gr.Row(elem_classes="workbench"):
            with gr.Column(elem_classes="photo-column", min_width=280):
                self.photo = photo_input(self.settings)
                with gr.Row(elem_classes="actions"):
                    self.start = gr.Button("Compare", variant="primary", elem_id="compare")
                    self.stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=80)
                self.grid = self._example_grid()
            with gr.Column(elem_classes="answer-column", min_width=280):
                self.panes = gr.HTML(
                    render_panes(idle_panes(self.loader.contenders)), elem_id="panes", label="Panes"
                )
                self.references = gr.Textbox(
                    "",  # not None, so that clients may leave it out
                    label="Ground truth",
                    info="One reference caption a line. Captions are scored against them "
                    "(CIDEr-D 0 to 10, BLEU-4 0 to 1), and shared words are marked.",
                    lines=5,
                    max_lines=8,
                    max_length=20_000,
                    placeholder="Filled in for examples; type your own for your photo.",
                    elem_id="references",
                )
                self.decoding = decoding_controls()
        self.gallery = GalleryPanel(self.settings.data)
        with gr.Column(elem_classes="history-section"):
            with gr.Row(elem_classes="section-head"):
                gr.HTML("<h2>This visit</h2>", elem_classes="section-title")
                self.csv = gr.DownloadButton(
                    "CSV", interactive=False, size="sm", elem_id="history-csv"
                )
                self.json = gr.DownloadButton(
                    "JSON", interactive=False, size="sm", elem_id="history-json"
                )
            self.table = gr.HTML(history.render_history(()), elem_id="history", label="History")
        self.result = gr.JSON(visible=False, label="Captions")

    def _example_grid(self) -> gr.HTML:
        tiles = render_tiles(tiles_of(examples_or_none(self.examples)), "Example photos")
        heading = '<h2 class="tiles-title">Examples</h2>' if tiles else ""
        return photo_grid(heading + tiles, visible=bool(tiles), elem_id="examples", label="Photo")

    # ---- events -------------------------------------------------------------------------------

    def _wire(self, page: gr.Blocks) -> None:
        quiet = {"show_progress": "hidden"}
        self.weights.wire(page, self.panes, self.shown)
        chosen = [self.photo, self.references, self.filled, self.panes, self.shown]
        self.photo.upload(
            self._take_upload,
            inputs=[self.photo, self.references, self.filled],
            outputs=chosen,
            api_name="take_photo",
            **quiet,
        )
        self.photo.oversize(
            self._refuse_large,
            inputs=[self.references, self.filled],
            outputs=chosen,
            api_name="refuse_large_photo",
            api_visibility="undocumented",
            **quiet,
        )
        self.grid.pick(
            self._take_example,
            inputs=[self.grid],
            outputs=chosen,
            api_name="take_example",
            **quiet,
        )
        self.gallery.wire(self._take_gallery, chosen)
        options = [self.photo, self.references, *self.decoding]
        captions = {
            "concurrency_limit": self.settings.concurrency,
            "concurrency_id": "captions",
        }
        self.start.click(
            self._run,
            inputs=[*options, self.visited],
            outputs=[
                self.photo,
                self.panes,
                self.shown,
                self.stop,
                self.visited,
                self.table,
                self.csv,
                self.json,
            ],
            api_name="compare_and_keep",
            api_visibility="undocumented",
            **captions,
            **quiet,
        ).then(
            self._rescore,
            inputs=[self.references, self.shown],
            outputs=[self.panes, self.shown],
            api_name="score_after_comparison",
            api_visibility="undocumented",
            **quiet,
        )
        self.start.click(None, js=ON_START)
        self.references.change(  # not `input`, which does not fire for pasted text
            self._rescore,
            inputs=[self.references, self.shown],
            outputs=[self.panes, self.shown],
            trigger_mode="always_last",
            api_name="score",
            api_visibility="undocumented",
            **quiet,
        )
        self.stop.click(self._stop, api_name="stop", api_visibility="undocumented", queue=False)
        gr.Button(visible=False).click(
            compare_endpoint(self.settings, self.loader),
            inputs=options,
            outputs=[self.result],
            api_name="compare",
            **captions,
        )

    # ---- the photo ----------------------------------------------------------------------------

    def _take_upload(
        self, photo: FileData | None, references: str, filled: str, request: gr.Request
    ) -> Update:
        try:
            opened = open_photo(photo, self.settings)
        except QvlaError as error:
            return self._refuse(str(error), references, filled, request)
        return {self.photo: shown(photo, opened), **self._own(references, filled, request)}

    def _refuse_large(self, references: str, filled: str, request: gr.Request) -> Update:
        return self._refuse(too_large(self.settings), references, filled, request)

    def _take_example(self, name: str | None, request: gr.Request) -> Update:
        return self._take_from(self.examples, name, request)

    def _take_gallery(self, name: str | None, request: gr.Request) -> Update:
        return self._take_from(self.gallery.folder, name, request)

    def _take_from(self, folder: PhotoFolder, name: str | None, request: gr.Request) -> Update:
        try:
            example = folder.find(name)
            photo = in_cache(example.image)
            opened = open_photo(photo, self.settings)
        except QvlaError as error:
            return self._refuse(str(error), "", "", request)
        except OSError:
            return self._refuse(f"The photo {name} is missing from its folder.", "", "", request)
        references = "\n".join(example.references)
        return {
            self.photo: shown(photo, opened),
            **self._own(references, "", request),
            self.filled: references,
        }

    def _refuse(self, sentence: str, references: str, filled: str, request: gr.Request) -> Update:
        return {self.photo: refused(sentence), **self._own(references, filled, request)}

    def _own(self, references: str, filled: str, request: gr.Request) -> Update:
        """What goes with the old photo goes: captions, and references it came with."""
        return {
            self.references: "" if references == filled else references,
            self.filled: "",
            **self._drop_captions(request),
        }

    def _drop_captions(self, request: gr.Request) -> Update:
        """Stops those that are still coming, and empties the panes."""
        self.runs.stop(_visit(request), discard=True)
        panes = self.weights.idle_panes()
        return {self.panes: render_panes(panes), self.shown: panes}

    # ---- the comparison -----------------------------------------------------------------------

    def _run(
        self,
        photo: FileData | None,
        references: str,
        max_new_tokens: float,
        num_beams: float,
        temperature: float,
        top_p: float,
        seed: str,
        visited: tuple[history.Comparison, ...],
        request: gr.Request,
    ) -> Iterator[Update]:
        options = decoding_arguments(max_new_tokens, num_beams, temperature, top_p, seed)
        lines = read_references(references)
        try:
            image = open_photo(photo, self.settings).image
        except QvlaError as error:
            yield {self.photo: refused(str(error))}
            return
        visit = _visit(request)
        run = self.runs.begin(visit)
        panes: tuple[Pane, ...] = ()
        try:
            first = {self.stop: gr.Button(interactive=True)}
            for panes in comparison.compare(self.loader, image, options, lines, run.stopped):
                if run.discarded:
                    break
                yield {self.panes: render_panes(panes), self.shown: panes, **first}
                first = {}
        finally:
            self.runs.end(visit, run)
        if run.discarded or not any(pane.text for pane in panes):
            yield {self.stop: gr.Button(interactive=False)}
            return
        entry = history.Comparison(
            time=history.now(),
            photo=photo_name(photo),
            thumbnail=data_uri(image, HISTORY_PIXELS),
            decoding=options,
            references=lines,
            panes=panes,
        )
        yield {self.stop: gr.Button(interactive=False), **self._keep((*visited, entry))}

    def _keep(self, visited: tuple[history.Comparison, ...]) -> Update:
        folder = Path(get_upload_folder()) / "history"
        csv_file, json_file = history.write_downloads(visited, folder)
        return {
            self.visited: visited,
            self.table: history.render_history(visited),
            self.csv: gr.DownloadButton(value=csv_file, interactive=True),
            self.json: gr.DownloadButton(value=json_file, interactive=True),
        }

    def _rescore(self, references: str, panes: tuple[Pane, ...], request: gr.Request) -> Update:
        if self.runs.is_running(_visit(request)) or not any(pane.text for pane in panes):
            return {self.shown: gr.skip()}
        panes = comparison.score(panes, read_references(references))
        return {self.panes: render_panes(panes), self.shown: panes}

    def _stop(self, request: gr.Request) -> None:
        self.runs.stop(_visit(request))


def _visit(request: gr.Request) -> str:
    return request.session_hash or ""
