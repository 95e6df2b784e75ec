"""The planner as a form that answers as it changes: what a variant would take, and which GPUs that
fits. Also as `/plan`.
"""

from __future__ import annotations

from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.captioning.contenders import TITLES
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui import units
from qvla.ui.banner import REAL_MODEL
from qvla.ui.gpu_fit import render_fit
from qvla.ui.settling import SETTLE, changes
from qvla.ui.tables import Cell, render_table

if TYPE_CHECKING:
    from qvla.planning.planner import Plan

PARTS = ("weights", "gradients", "optimiser", "activations", "overhead", "total")
OPTIMISERS = {  # as a recipe spells them
    "AdamW, 32-bit states": "adamw_torch",
    "AdamW, 8-bit states": "adamw_8bit",
}
LARGEST_BATCH = 4096
LONGEST_TEXT = 8192
MOST_IMAGE_TOKENS = 16_384


class PlannerForm:
    """Fields and the answer; `fields` are in the order of `plan_for`."""

    def __init__(self, settings: Settings) -> None:
        models = list(dict.fromkeys([settings.model_name, REAL_MODEL]))
        self.settings = settings
        with gr.Column(elem_classes="exhibit", elem_id="planner"):
            gr.HTML(
                "<h3>Planner</h3><p class='lead'>Told from the architecture alone, without weights "
                "or a GPU: what a variant will take on a GPU, and which ones that fits.</p>",
                elem_classes="section-title",
            )
            with gr.Row():
                with gr.Column(min_width=300, scale=3):
                    self.fields = [*self._what(models), *self._how_much()]
                with gr.Column(min_width=300, scale=2):
                    self.answer = gr.HTML(elem_id="plan-answer", label="Plan")
        self.result = gr.JSON(visible=False, label="Plan")
        self._wire()

    def _what(self, models: list[str]) -> list[Any]:
        model = gr.Dropdown(models, value=models[0], label="Model", elem_id="plan-model")
        with gr.Row():
            variant = gr.Radio(
                [(title, name) for name, title in TITLES.items()],
                value="qvla",
                label="Variant",
                elem_id="plan-variant",
                min_width=240,
            )
            task = gr.Radio(
                [("Training", "training"), ("Captioning", "captioning")],
                value="training",
                label="Task",
                elem_id="plan-task",
                min_width=240,
            )
        return [model, variant, task]

    def _how_much(self) -> list[Any]:
        with gr.Row():
            batch = gr.Number(
                4,
                label="Batch size",
                info="photos at once",
                precision=0,
                min_width=140,
                elem_id="plan-batch",
            )
            image = gr.Textbox(
                "",  # gr.Number shows 0 where there is no number
                max_lines=1,
                label="Image tokens",
                info="empty: the model's own",
                min_width=140,
                elem_id="plan-image-tokens",
            )
            text = gr.Textbox(
                "",
                max_lines=1,
                label="Text tokens",
                info="empty: of a long caption",
                min_width=140,
                elem_id="plan-text-tokens",
            )
        optimiser = gr.Dropdown(
            list(OPTIMISERS.items()),
            value="adamw_torch",
            label="Optimiser",
            info="of training",
            elem_id="plan-optimiser",
        )
        checkpointing = gr.Checkbox(
            False,
            label="Gradient checkpointing",
            info="of training: less memory, more time",
            elem_id="plan-checkpointing",
        )
        return [batch, image, text, optimiser, checkpointing]

    def show_on(self, event: Any, name: str) -> None:
        """Shows the plan of what the form says when this happens."""
        event(
            self._show,
            inputs=self.fields,
            outputs=[self.answer],
            api_name=name,
            api_visibility="undocumented",
            show_progress="hidden",
            trigger_mode="always_last",
        )

    def _wire(self) -> None:
        self.show_on(gr.on(changes(self.fields), None, js=SETTLE).then, "show_plan")
        gr.Button(visible=False).click(
            self._endpoint, inputs=self.fields, outputs=[self.result], api_name="plan"
        )

    def _endpoint(
        self,
        model: str,
        variant: str = "qvla",
        task: str = "training",
        batch_size: float = 4,
        image_tokens: str = "",
        text_tokens: str = "",
        optimiser: str = "adamw_torch",
        gradient_checkpointing: bool = False,
    ) -> dict[str, Any]:
        """Plans the memory of captioning or training.

        Bytes by what holds them, their total, and whether it fits each of the usual GPUs. The
        numbers of tokens may be empty, and are then the model's own and those of a long caption.
        """
        fields = (model, variant, task, batch_size, image_tokens, text_tokens, optimiser)
        try:
            found = self._plan(*fields, gradient_checkpointing)
        except QvlaError as error:
            raise gr.Error(str(error), print_exception=False) from error
        sizes = {f"{name}_bytes": getattr(found, name) for name in PARTS}
        return {**sizes, "fits": {gpu: fit for gpu, _, fit in found.fits}}

    def _show(self, *fields: Any) -> str:
        """The answer as HTML, or the sentence that says what is wrong."""
        try:
            return render_plan(self._plan(*fields))
        except QvlaError as error:
            return f'<p class="notice" role="alert">{escape(str(error))}</p>'

    def _plan(self, model: str, *fields: Any) -> Plan:
        return plan_for(
            self.settings.model_called(model),
            *fields,
            embeddings_8bit=self.settings.nf4_embeddings == "int8",
        )


def plan_for(
    model: str,
    variant: str,
    task: str,
    batch_size: float | None,
    image_tokens: str,
    text_tokens: str,
    optimiser: str,
    gradient_checkpointing: bool,
    *,
    embeddings_8bit: bool,
) -> Plan:
    """The plan of what the form says; raises QvlaError.

    `embeddings_8bit` is how this app holds QVLA's embedding table.
    """
    return _planned(
        model,
        variant,
        task,
        _count(batch_size, "batch size", LARGEST_BATCH),
        _optional_count(image_tokens, "number of image tokens", MOST_IMAGE_TOKENS),
        _optional_count(text_tokens, "number of text tokens", LONGEST_TEXT),
        optimiser,
        gradient_checkpointing,
        embeddings_8bit,
    )


def render_plan(plan: Plan) -> str:
    """The smallest GPU and the others, and the parts as a table."""
    sizes = {name: getattr(plan, name) for name in PARTS}
    rows = [
        (name.capitalize(), [Cell(units.size(size) if size else "none", "planned")])
        for name, size in sizes.items()
    ]
    return render_fit(plan) + render_table(
        ("Memory", "Bytes"), rows, caption="Planned memory by what holds it"
    )


@lru_cache(maxsize=256)
def _planned(
    model: str,
    variant: str,
    task: str,
    batch_size: int,
    image_tokens: int | None,
    text_tokens: int | None,
    optimiser: str,
    gradient_checkpointing: bool,
    embeddings_8bit: bool,
) -> Plan:
    from qvla.planning.planner import plan

    return plan(
        model,
        variant,
        task=task,
        batch_size=batch_size,
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        optimiser=optimiser,
        gradient_checkpointing=gradient_checkpointing,
        embeddings_8bit=embeddings_8bit,
    )


def _optional_count(text: str, name: str, most: int) -> int | None:
    text = (text or "").strip()
    if not text:
        return None
    return _count(int(text) if text.isdecimal() else None, name, most)


def _count(value: float | None, name: str, most: int) -> int:
    if value is None or not 1 <= value <= most or value != int(value):
        raise QvlaError(f"The {name} must be a whole number from 1 to {most:,}.")
    return int(value)
