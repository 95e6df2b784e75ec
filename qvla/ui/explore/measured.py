"""What sweeps measured, on the page: four exhibits over the newest comparable runs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from qvla.records import store as records
from qvla.settings import Settings
from qvla.ui.measured.exhibits import Exhibit
from qvla.ui.tables import record_folders

EXHIBITS = {
    "parameters": "CIDEr against trained parameters",
    "seconds": "CIDEr against the time to train",
    "memory": "CIDEr against memory",
    "rank": "CIDEr over rank",
}


class MeasuredSection:
    """Lays itself out where it is made; the exhibits are out of sight while there are no runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        gr.HTML("<h3>Measured</h3>", elem_classes="section-title")
        self.lead = gr.HTML(elem_id="explore-measured", label="Measured")
        with gr.Column(visible=False) as self.frame:
            self.exhibits = {
                name: Exhibit(f"explore-{name}", title) for name, title in EXHIBITS.items()
            }

    @property
    def outputs(self) -> list[Any]:
        parts = [part for one in self.exhibits.values() for part in one.outputs]
        return [self.lead, self.frame, *parts]

    def show(self) -> dict[Any, Any]:
        """Reads the records; a run that was just kept is shown when the tab is next opened."""
        from qvla.bench.sweep_results import WHAT
        from qvla.ui.explore.sweep_figures import sweep_panel

        kept = records.find(WHAT, record_folders(self.settings), lambda _: None)
        panel = sweep_panel(kept)
        shown = {name: getattr(panel, name) for name in EXHIBITS}
        updates = {
            self.lead: panel.lead,
            self.frame: gr.Column(visible=any(one.figure or one.html for one in shown.values())),
        }
        for name, one in shown.items():
            updates |= self.exhibits[name].show(*one)
        return updates
