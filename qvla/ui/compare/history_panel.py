"""The history's place on the page: a table, and what it holds to take away or to clear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from qvla.settings import ASSETS
from qvla.ui.compare import history
from qvla.ui.compare.history import Comparison

SCRIPT = (ASSETS / "ui" / "history.js").read_text(encoding="utf-8")


class HistoryPanel:
    """`visited` holds the visit's comparisons, oldest first."""

    def __init__(self) -> None:
        self.visited = gr.State(())
        with gr.Column(elem_classes="history-section"):
            with gr.Row(elem_classes="section-head"):
                gr.HTML("<h2>This visit</h2>", elem_classes="section-title")
                self.csv = gr.DownloadButton(
                    "CSV", interactive=False, size="sm", elem_id="history-csv"
                )
                self.json = gr.DownloadButton(
                    "JSON", interactive=False, size="sm", elem_id="history-json"
                )
                self.clear = gr.Button(
                    "Clear", interactive=False, size="sm", elem_id="history-clear", min_width=76
                )
            self.table = gr.HTML(
                None,
                rows=history.render_history(()),
                html_template="${rows}",
                js_on_load=SCRIPT,
                apply_default_css=False,
                elem_id="history",
                label="History",
            )

    @property
    def outputs(self) -> list[Any]:
        return [self.visited, self.table, self.csv, self.json, self.clear]

    def show(self, visited: tuple[Comparison, ...]) -> dict[Any, Any]:
        """The updates that show these comparisons, and offer them as files."""
        visited = history.keyed(visited)
        files: tuple[str | None, str | None] = (None, None)
        if visited:
            files = history.write_downloads(visited, Path(get_upload_folder()) / "history")
        some = bool(visited)
        return {
            self.visited: visited,
            self.table: gr.HTML(value=None, rows=history.render_history(visited)),
            self.csv: gr.DownloadButton(value=files[0], interactive=some),
            self.json: gr.DownloadButton(value=files[1], interactive=some),
            self.clear: gr.Button(interactive=some),
        }
