"""A job's name and note, which an admin writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.jobs.labels import MOST_NAME, MOST_NOTE

if TYPE_CHECKING:
    from qvla.jobs.store import Job


class JobLabels:
    """Two fields and a button, laid out where it is made. `outputs` is what `show` updates."""

    def __init__(self) -> None:
        with gr.Row(elem_classes="job-labels"):
            self.name = gr.Textbox(
                "",
                label="Name",
                max_lines=1,
                max_length=MOST_NAME,
                elem_id="job-name",
                min_width=150,
            )
            self.note = gr.Textbox(
                "",
                label="Note",
                lines=1,
                max_lines=8,
                max_length=MOST_NOTE,
                elem_id="job-note",
                min_width=200,
            )
            self.save = gr.Button("Save", size="sm", elem_id="job-label", min_width=70)

    @property
    def outputs(self) -> list[Any]:
        return [self.name, self.note]

    def show(self, job: Job) -> Mapping[Any, Any]:
        """For a job that was just chosen: later on, somebody may be writing."""
        return {self.name: job.name, self.note: job.note}

    def hide(self) -> Mapping[Any, Any]:
        return dict.fromkeys(self.outputs, "")
