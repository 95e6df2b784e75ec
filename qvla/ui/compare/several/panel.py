"""Several photos' place on the page: a part of Compare that is closed until it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import ASSETS, Settings
from qvla.ui.compare.certainty import Certainties
from qvla.ui.compare.controls import DecodingControls, decoding_arguments
from qvla.ui.compare.offers import answering
from qvla.ui.compare.several.lot import Desk, Lot, new_lot
from qvla.ui.compare.several.table import render_lot, write_downloads
from qvla.ui.panes import Pane
from qvla.ui.queue_state import CAPTIONS
from qvla.ui.uploads import FilesThemselves, WithoutStub

SCRIPT = (ASSETS / "ui" / "several.js").read_text(encoding="utf-8")
TEMPLATE = """
<div class="several-drop">
  <input class="sr-only" type="file" id="several-file" multiple tabindex="-1" aria-hidden="true"
         aria-label="Photo files">
  <button type="button" class="several-pick" aria-describedby="several-hint">Choose photos</button>
  <span id="several-hint" class="photo-hint">${hint}</span>
</div>
<p class="several-busy count" role="status"></p>
"""
DOWNLOADS = {"CSV": "csv", "JSON": "json", "Page to print": "page"}
PULSE = 0.4  # seconds between a turn's end and the next one's asking
FULL = "As many comparisons wait as may: press Go on in a moment."
STOPPED = "Stopped: press Go on for the rest."
Update = dict[Any, Any]


class SeveralInput(FilesThemselves, gr.HTML, metaclass=WithoutStub):
    """A drop zone for many files. Event: `upload`; the value is what `new_lot` reads."""

    def preprocess(self, payload: object) -> object:
        """Gradio has checked that the files in it lie in its upload folder."""
        return payload

    def postprocess(self, value: Any) -> Any:
        return value

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "photos, each an uploaded file"}

    def example_payload(self) -> Any:
        return None

    def example_value(self) -> Any:
        return None


class SeveralPanel:
    """Lays itself out where it is made; `wire` has it work."""

    def __init__(self, settings: Settings, loader: LineupLoader) -> None:
        self.settings, self.loader = settings, loader
        self.certain = Certainties(settings)
        # Each visit has a copy of its own, which the server keeps until the visit is over.
        self.desk = gr.State(Desk(), delete_callback=Desk.clear)
        self.pulse = gr.Timer(PULSE, active=False)
        with gr.Accordion("Several photos", open=False, elem_id="several") as self.accordion:
            with gr.Row(elem_classes="section-head several-head"):
                self.input = SeveralInput(
                    None,
                    html_template=TEMPLATE,
                    js_on_load=SCRIPT,
                    apply_default_css=False,
                    hint=f"or drop them here: up to {settings.max_photos}, "
                    f"each up to {settings.max_upload_mb} MB",
                    most=settings.max_photos,
                    max_bytes=settings.max_upload_bytes,
                    elem_id="several-input",
                    label="Photos",
                )
                self.stop = gr.Button("Stop", size="sm", visible=False, elem_id="several-stop")
                self.files = [
                    gr.DownloadButton(title, size="sm", visible=False, elem_id=f"several-{ending}")
                    for title, ending in DOWNLOADS.items()
                ]
            self.table = gr.HTML(
                None,
                rows="",
                html_template="${rows}",
                js_on_load=SCRIPT,
                apply_default_css=False,
                elem_id="several-table",
                label="Captions",
            )

    def wire(
        self,
        seats: gr.State,
        decoding: DecodingControls,
        opened: Callable[[FileData, tuple[Pane, ...], gr.Request], Update],
        outputs: list[Any],
    ) -> Any:
        """`opened` gives the updates of `outputs` that open a photo with its captions in Compare;
        returns the event of that.
        """
        quiet = {"show_progress": "hidden", "api_visibility": "undocumented"}
        mine = [self.table, self.stop, self.pulse, *self.files]

        def open_row(place: str | None, desk: Desk, request: gr.Request) -> Update:
            rows = desk.lot.rows if desk.lot else []
            number = int(place) if str(place).isdecimal() and len(str(place)) < 6 else len(rows)
            if number >= len(rows) or rows[number].file is None or not rows[number].panes:
                raise gr.Error("There is no such photo any more.", print_exception=False)
            return opened(rows[number].file, rows[number].panes, request)

        self.input.upload(
            self._take,
            inputs=[self.input, self.desk, seats, *decoding],
            outputs=mine,
            queue=False,
            api_name="take_photos",
            **quiet,
        )
        self.pulse.tick(
            self._step,
            inputs=[self.desk],
            outputs=mine,
            concurrency_limit=self.settings.concurrency,
            concurrency_id=CAPTIONS,
            trigger_mode="once",
            api_name="caption_photos",
            **quiet,
        ).failure(
            self._not_taken,
            inputs=[self.desk],
            outputs=mine,
            queue=False,
            api_name="photos_not_taken",
            **quiet,
        )
        self.stop.click(
            self._toggle,
            inputs=[self.desk],
            outputs=mine,
            queue=False,
            api_name="stop_photos",
            **quiet,
        )
        return self.table.open(
            open_row,
            inputs=[self.table, self.desk],
            outputs=outputs,
            queue=False,
            api_name="open_photo",
            **quiet,
        )

    # ---- handlers -----------------------------------------------------------------------------

    def _take(
        self,
        sent: Any,
        desk: Desk,
        seats: tuple[str, ...],
        max_new_tokens: float,
        num_beams: float,
        temperature: float,
        top_p: float,
        seed: str,
    ) -> Update:
        options = decoding_arguments(max_new_tokens, num_beams, temperature, top_p, seed)
        try:
            lot = new_lot(sent, self.settings, seats, options)
        except QvlaError as error:
            problem = f'<p class="problem" role="alert">{escape(str(error))}</p>'
            return {self.table: gr.HTML(value=None, rows=problem + render_lot(desk.lot))}
        desk.clear()
        desk.lot = lot
        return self._show(desk)

    def _step(self, desk: Desk) -> Update:
        """One turn: the next few photos, unless there is nothing to do any more."""
        lot = desk.lot
        if lot is None or lot.paused or not lot.waiting:
            return {self.pulse: gr.Timer(active=False)}
        try:
            lineup = self.loader.wait(timeout=0)
            if lineup is None:
                return self._show(desk, self.loader.state().message)
            lot.step(lineup, answering(self.loader, lot.seats), self.settings, self.certain)
        except QvlaError as error:
            lot.paused = True
            return self._show(desk, str(error))
        return self._show(desk) if desk.lot is lot else {self.pulse: gr.skip()}

    def _toggle(self, desk: Desk) -> Update:
        if desk.lot is not None:
            desk.lot.paused = not desk.lot.paused
        return self._show(desk, STOPPED if desk.lot and desk.lot.paused else "")

    def _not_taken(self, desk: Desk) -> Update:
        if desk.lot is not None:
            desk.lot.paused = True
        return self._show(desk, FULL)

    def _show(self, desk: Desk, message: str = "") -> Update:
        lot = desk.lot
        going = lot is not None and bool(lot.waiting)
        runs = going and not lot.paused
        return {
            self.table: gr.HTML(value=None, rows=render_lot(lot, message)),
            self.stop: gr.Button("Stop" if runs else "Go on", visible=going),
            self.pulse: gr.Timer(active=runs),
            **self._offered(desk, lot, ready=lot is not None and not runs),
        }

    def _offered(self, desk: Desk, lot: Lot | None, *, ready: bool) -> Update:
        """The downloads, once nothing changes any more."""
        paths: list[str | None] = [None] * len(self.files)
        if lot is not None and ready and any(row.panes for row in lot.rows):
            old = desk.folder
            place = Path(get_upload_folder()) / "several"
            desk.folder, paths = write_downloads(lot, self.settings.model_name, place)
            Desk(folder=old).clear()
        return {
            button: gr.DownloadButton(value=path, visible=path is not None)
            for button, path in zip(self.files, paths, strict=True)
        }
