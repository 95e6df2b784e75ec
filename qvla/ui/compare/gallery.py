"""The gallery's place on the page: filters, a page of photos, and the way to the next page."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from qvla.data.risc import DatasetError
from qvla.ui.grid import photo_grid, render_tiles, tiles_of
from qvla.ui.photo_folder import ALL, PhotoFolder

NO_FOLDER = (
    '<p class="empty">To browse photos here, set <code>QVLA_DATA</code> to a folder in the RISC '
    "layout: <code>captions.csv</code> and its images.</p>"
)
# The photo is far above the gallery: without this a pick seems to do nothing.
SHOW_PHOTO = "() => document.getElementById('photo').scrollIntoView({block: 'center'})"


class GalleryPanel:
    """An accordion; pictures are made when it is opened. `folder` is None when there is no data."""

    def __init__(self, data: Path | None) -> None:
        self.folder, note, sources, splits = None, NO_FOLDER, [], []
        if data is not None:
            folder = PhotoFolder(data)
            try:
                sources, splits = folder.sources(), folder.splits()
                self.folder, note = folder, ""
            except DatasetError as error:
                note = f'<p class="empty">{escape(str(error))}</p>'
        with gr.Accordion("Gallery", open=False, elem_id="gallery") as self.accordion:
            self.note = gr.HTML(note, elem_id="gallery-note", label="Count")
            with gr.Row(visible=self.folder is not None, elem_classes="filters"):
                self.source = gr.Dropdown([ALL, *sources], value=ALL, label="Source", min_width=140)
                self.split = gr.Dropdown([ALL, *splits], value=ALL, label="Split", min_width=140)
                self.number = gr.Number(
                    1, label="Page", precision=0, minimum=1, min_width=90, elem_id="gallery-page"
                )
                self.previous = gr.Button("Previous", size="sm", min_width=90)
                self.next = gr.Button("Next", size="sm", min_width=90)
            self.grid = photo_grid("", elem_id="gallery-grid", label="Photo")

    def wire(self, take: Callable[..., Any], chosen: list[Any]) -> None:
        """`take` is given the picked photo's name and fills the components in `chosen`."""
        if self.folder is None:
            return
        filters = [self.source, self.split, self.number]
        page = [self.note, self.number, self.grid]
        quiet = {"show_progress": "hidden"}
        self.accordion.expand(
            self._turn(0),
            inputs=filters,
            outputs=page,
            api_name="gallery_open",
            api_visibility="undocumented",
            **quiet,
        )
        for trigger, step, name in (
            (self.previous.click, -1, "gallery_previous"),
            (self.next.click, 1, "gallery_next"),
            (self.number.submit, 0, "gallery_page"),
        ):
            trigger(self._turn(step), inputs=filters, outputs=page, api_name=name, **quiet)
        for control, name in ((self.source, "gallery_source"), (self.split, "gallery_split")):
            control.input(self._first, inputs=filters[:2], outputs=page, api_name=name, **quiet)
        self.grid.pick(take, inputs=[self.grid], outputs=chosen, api_name="take_gallery", **quiet)
        self.grid.pick(None, js=SHOW_PHOTO)

    def _turn(self, step: int) -> Callable[[str, str, float], dict[Any, Any]]:
        def turn(source: str, split: str, number: float) -> dict[Any, Any]:
            return self._show(source, split, int(number or 1) + step)

        return turn

    def _first(self, source: str, split: str) -> dict[Any, Any]:
        return self._show(source, split, 1)

    def _show(self, source: str, split: str, number: int) -> dict[Any, Any]:
        page = self.folder.page(source, split, number)
        photos = "photo" if page.matching == 1 else "photos"
        return {
            self.note: f'<p class="count" role="status">{page.matching} {photos}, '
            f"page {page.number} of {page.pages}</p>",
            self.number: page.number,
            self.grid: gr.HTML(
                value=None,
                tiles=render_tiles(tiles_of(page.examples), "Photos of the gallery"),
            ),
        }
