"""What happens on the form of a new fine-tune, all of it through the gate."""

from __future__ import annotations

from contextlib import suppress
from html import escape
from typing import Any

import gradio as gr

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.jobs import runner
from qvla.ui.admin.form import JobForm
from qvla.ui.admin.gate import Gate
from qvla.ui.rights import Who
from qvla.ui.settling import SETTLE, changes

Updates = dict[Any, Any]

LOADING_SECONDS = 120.0  # that what needs the libraries of the weights waits for them


class FormEvents:
    """`preview_on` shows what the form comes to after any event; `wire` does it after the form's
    own. `rule` is where it is said how runs share the device.
    """

    def __init__(self, gate: Gate, form: JobForm, rule: gr.HTML, loader: LineupLoader) -> None:
        self.gate, self.form, self.rule, self.loader = gate, form, rule, loader

    def preview_on(self, event: Any, name: str) -> None:
        form = self.form
        self.gate.on(
            event,
            self._preview,
            name=f"preview_{name}",
            inputs=form.inputs,
            outputs=[*form.shown, self.rule],
            told_in=form.problem,
            trigger_mode="always_last",
        )

    def wire(self) -> None:
        form = self.form
        method, preset, own = form.of["method"], form.of["preset"], form.with_defaults
        self.preview_on(gr.on(changes(form.inputs), None, js=SETTLE).then, "of_form")
        for event, handler, name, inputs, outputs in (
            (form.on_method, form.take_defaults, "choose_method", [method, preset, *own], own),
            (
                form.cards.input,
                form.take_card,
                "choose_card",
                [form.cards, method],
                [form.more, *form.inputs],
            ),
        ):
            done = self._on(event, handler, name, inputs, outputs)
            self.preview_on(done.then, f"after_{name}")
        self._on(form.costs.expand, self._costs, "show_costs", [form.of["model"]], [form.methods])
        uploaded = self._on(
            form.upload.upload,
            form.take_in,
            "upload",
            [form.upload],
            [form.of["data"]],
            told_in=form.uploaded,
        )
        self.preview_on(uploaded.then, "after_upload")

    def wait(self) -> None:
        """Until the weights' libraries are there; what is counted needs no weights."""
        with suppress(QvlaError):
            self.loader.wait(LOADING_SECONDS)

    def _on(
        self,
        event: Any,
        handler: Any,
        name: str,
        inputs: list[Any],
        outputs: list[Any],
        told_in: Any = None,
    ) -> Any:
        """An event of the form, whose handler needs not know who asks."""
        return self.gate.on(
            event,
            lambda who, *values: handler(*values),
            name=name,
            inputs=inputs,
            outputs=outputs,
            told_in=told_in or self.form.problem,
        )

    def _costs(self, model: Any) -> Updates:
        self.wait()
        return self.form.show_costs(model)

    def _preview(self, who: Who, *values: Any) -> Updates:
        self.wait()
        rule = f'<p class="lead">{escape(runner.rule_of(self.form.settings))}</p>'
        return {**self.form.show(*values), self.rule: rule}
