"""What may be chosen: model, method, precision of the base, and the method's own settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from qvla.data.allowed import model_place
from qvla.errors import QvlaError
from qvla.methods.placement import PROJECTIONS
from qvla.methods.recipe import Recipe
from qvla.methods.registry import METHODS
from qvla.models.architectures import PALIGEMMA_3B
from qvla.settings import Settings
from qvla.ui.admin.fields import FIELDS, component, read_values, written
from qvla.ui.settling import changes

PRECISIONS = (
    ("as trained by default", ""),
    ("float32", "fp32"),
    ("bfloat16", "bf16"),
    ("INT8", "int8"),
    ("NF4", "nf4"),
)
# Settings of a method that change neither a count nor a place.
UNCOUNTED = {"activation", "dropout", "lora_alpha"}
SHOWN = tuple(one for one in FIELDS if one.methods and one.name not in UNCOUNTED)
LARGEST = 1_000_000  # of any number on the form


class ExploreForm:
    """Lays the form out where it is made; `inputs` are in the order of `chosen`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model = gr.Dropdown(
            list(dict.fromkeys([settings.model_name, PALIGEMMA_3B])),
            value=settings.model_name,
            label="Model",
            info="or a folder that the settings allow; any other from the command line",
            allow_custom_value=True,
            elem_id="explore-model",
        )
        self.method = gr.Dropdown(
            [(one.title, name) for name, one in METHODS.items()],
            value="lora",
            label="Method",
            elem_id="explore-method",
        )
        self.precision = gr.Dropdown(
            list(PRECISIONS), value="", label="Precision of the base", elem_id="explore-precision"
        )
        with gr.Row(elem_classes="fields"):
            self.own = [component(field, prefix="explore") for field in SHOWN]
        for field, one in zip(SHOWN, self.own, strict=True):
            one.visible = field.name in METHODS["lora"].fields

    @property
    def inputs(self) -> list[Any]:
        return [self.model, self.method, self.precision, *self.own]

    @property
    def changes(self) -> list[Any]:
        """The events at which a field other than the method has a new value that is meant, as in
        the form of a job.
        """
        return changes((self.model, self.precision, *self.own))

    def choices(self) -> gr.Dropdown:
        """The models that are built in besides; Transformers comes with the question."""
        from qvla.models.families import built_in

        return gr.Dropdown(choices=list(dict.fromkeys([self.settings.model_name, *built_in()])))

    def visible(self, method: str) -> dict[Any, Any]:
        """The settings of that method, and no others."""
        fields = METHODS[method].fields if method in METHODS else ()
        pairs = zip(SHOWN, self.own, strict=True)
        return {one: gr.update(visible=field.name in fields) for field, one in pairs}

    def usual(self, method: str) -> list[Any]:
        """What the settings stand at for that method, in the form's order."""
        own = METHODS[method].defaults if method in METHODS else {}
        fields = Recipe.model_fields
        return [
            written(field, own.get(field.name, fields[field.name].get_default())) for field in SHOWN
        ]

    def usual_of(self, method: str) -> dict[str, Any]:
        """The same as a recipe takes it, of that method's own settings alone."""
        pairs = zip(SHOWN, self.usual(method), strict=True)
        fields = METHODS[method].fields
        return read_values({field.name: value for field, value in pairs if field.name in fields})

    def chosen(self, values: Sequence[Any]) -> tuple[str, str, str | None, dict[str, Any]]:
        """Model, method, precision and the method's settings, what is empty left out; raises
        QvlaError.
        """
        model, method, precision, *own = values
        if method not in METHODS:
            raise QvlaError(f"There is no method {method!r}: choose one of {', '.join(METHODS)}.")
        fields = [field for field in SHOWN if field.name in METHODS[method].fields]
        by_name = dict(zip((field.name for field in SHOWN), own, strict=True))
        given = read_values({field.name: by_name[field.name] for field in fields})
        for name, value in given.items():
            if isinstance(value, (int, float)) and value > LARGEST:
                raise QvlaError(f"The setting {name} can be {LARGEST:,} at most.")
        return self._model(model), method, precision or None, given

    def _model(self, name: Any) -> str:
        """Where a model's configuration lies; nothing is fetched on a visitor's behalf."""
        from qvla.models.families import built_in

        model = self.settings.model_called(str(name or "").strip())
        if model == self.settings.model or model in built_in():
            return model
        place = model_place(model, self.settings)
        if not Path(place).is_dir():
            raise QvlaError(
                f"The configuration of {place} is not at hand here: choose a model of the list, or "
                "run qvla explore yourself."
            )
        return place

    def moved(self, values: Sequence[Any]) -> dict[str, Any]:
        """Where the method was put, as far as that is not its usual place: the places that other
        methods are to be counted at too, whose usual ones may differ.
        """
        _, method, _, given = self.chosen(values)
        as_usual = self.usual_of(method)
        return {
            name: value
            for name, value in given.items()
            if name in PROJECTIONS and value != as_usual.get(name)
        }
