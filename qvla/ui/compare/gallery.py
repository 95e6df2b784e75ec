"""The gallery's place on the page: filters, a page of photos, and the way to the next page."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from qvla.data.risc import DatasetError
from qvla.ui.grid import photo_grid, render_tiles, tiles_of
from qvla.ui.pager import Pager
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
        first = ALL
        if data is not None:
            folder = PhotoFolder(data)
            try:
                sources, splits = folder.sources(), folder.splits()
                self.folder, note, first = folder, "", folder.first_split()
            except DatasetError as error:
                note = f'<p class="empty">{escape(str(error))}</p>'
        with gr.Accordion("Gallery", open=False, elem_id="gallery") as self.accordion:
            self.note = gr.HTML(note, elem_id="gallery-note", label="Count")
            with gr.Row(visible=self.folder is not None, elem_classes="filters"):
                self.source = gr.Dropdown([ALL, *sources], value=ALL, label="Source", min_width=140)
                self.split = gr.Dropdown([ALL, *splits], value=first, label="Split", min_width=140)
                self.pager = Pager("gallery")
            self.grid = photo_grid("", elem_id="gallery-grid", label="Photo")

    def wire(self) -> None:
        """The filters and pages; who takes the picked photo listens to `grid.pick`."""
        if self.folder is None:
            return
        filters = [self.source, self.split]
        page = [self.note, self.grid]
        quiet = {"show_progress": "hidden", "api_visibility": "undocumented"}
        self.accordion.expand(
            self._show,
            inputs=[*filters, self.pager.number],
            outputs=[*page, *self.pager.outputs],
            api_name="gallery_open",
            **quiet,
        )
        self.pager.wire(self._show, filters, page)
        for control, name in ((self.source, "gallery_source"), (self.split, "gallery_split")):
            control.input(
                self._first,
                inputs=filters,
                outputs=[*page, *self.pager.outputs],
                api_name=name,
                **quiet,
            )
        self.grid.pick(None, js=SHOW_PHOTO)

    def _first(self, source: str, split: str) -> dict[Any, Any]:
        return self._show(source, split, 1)

    def _show(self, source: str, split: str, number: float) -> dict[Any, Any]:
        page = self.folder.page(source, split, int(number or 1))
        photos = "photo" if page.matching == 1 else "photos"
        return {
            self.note: f'<p class="count" role="status">{page.matching} {photos}, '
            f"page {page.number} of {page.pages}</p>",
            **self.pager.show(page.number, page.pages),
            self.grid: gr.HTML(
                value=None,
                tiles=render_tiles(tiles_of(page.examples), "Photos of the gallery"),
            ),
        }
