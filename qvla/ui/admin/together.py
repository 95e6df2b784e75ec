"""Curves of several jobs in one picture, to tell recipes apart."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.errors import QvlaError
from qvla.jobs.publishing import shown_name
from qvla.ui.admin import curves
from qvla.ui.admin.gate import Gate
from qvla.ui.admin.job_list import title_of
from qvla.ui.admin.run_rows import RunRows
from qvla.ui.rights import Who

if TYPE_CHECKING:
    from qvla.jobs.service import Jobs
    from qvla.jobs.store import Job

Updates = dict[Any, Any]

MOST = 6  # as many as there are colours


class CurvesTogether:
    """Laid out where it is made. `jobs` opens the jobs, and `rows` has their runs' rows then."""

    def __init__(self, jobs: Callable[[], Jobs], rows: Callable[[], RunRows]) -> None:
        self._jobs, self._rows = jobs, rows
        with gr.Accordion("Curves of several jobs", open=False, elem_id="jobs-together") as frame:
            with gr.Row():
                self.chosen = gr.Dropdown(
                    [],
                    multiselect=True,
                    max_choices=MOST,
                    label="Jobs",
                    info=f"up to {MOST}",
                    elem_id="together-jobs",
                    min_width=280,
                    scale=3,
                )
                self.quantity = gr.Dropdown(
                    list(curves.QUANTITIES),
                    value=next(iter(curves.QUANTITIES)),
                    label="Curve",
                    elem_id="together-quantity",
                    min_width=160,
                )
            self.note = gr.HTML(elem_id="together-note", label="Note")
            self.plot = gr.Plot(
                label="Curves", visible=False, elem_id="together-plot", container=False
            )
        self.frame = frame

    @property
    def outputs(self) -> list[Any]:
        return [self.chosen, self.note, self.plot]

    def wire(self, gate: Gate) -> None:
        given = [self.chosen, self.quantity]
        gate.on(
            self.frame.expand,
            self._open,
            name="open_curves",
            inputs=given,
            outputs=self.outputs,
        )
        gate.on(
            lambda *args, **options: gr.on(
                [self.chosen.input, self.quantity.input], *args, **options
            ),
            self._draw,
            name="draw_curves",
            inputs=given,
            outputs=self.outputs,
            trigger_mode="always_last",
        )

    def forget(self) -> Updates:
        return {
            self.chosen: gr.Dropdown(choices=[], value=[]),
            self.note: "",
            self.plot: gr.Plot(value=None, visible=False),
        }

    def _open(self, who: Who, chosen: Any, quantity: Any) -> Updates:
        """Every job that has begun to choose from, the two newest chosen where none was."""
        begun = {job.id: _named(job) for job in self._jobs().all() if job.started}
        kept = [one for one in chosen or () if one in begun] or list(begun)[:2]
        choices = [(name, job_id) for job_id, name in begun.items()]
        return {
            **self._draw(who, kept, quantity),
            self.chosen: gr.Dropdown(choices=choices, value=kept),
        }

    def _draw(self, who: Who, chosen: Any, quantity: Any) -> Updates:
        runs, without = {}, []
        for job_id in (chosen if isinstance(chosen, list) else [])[:MOST]:
            with suppress(QvlaError):  # it was deleted a moment ago
                job = self._jobs().get(str(job_id))
                rows = self._rows().of(job.id)
                if curves.has(rows, quantity):
                    runs[_named(job)] = rows
                else:
                    without.append(_named(job))
        figure = curves.together(runs, quantity) if runs else None
        return {
            self.plot: gr.Plot(value=figure, visible=figure is not None),
            self.note: _without(without),
        }


def _named(job: Job) -> str:
    """Unlike the titles, no two of these are the same."""
    return f"{title_of(job)}, {shown_name(job.id)}"


def _without(names: list[str]) -> str:
    said = f"Nothing of it yet: {', '.join(names)}." if names else ""
    return f'<p class="lead">{escape(said)}</p>' if said else ""
