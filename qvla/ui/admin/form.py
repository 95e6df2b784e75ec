"""The form of a new fine-tune, and a preview of what it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gradio as gr

from qvla.data.allowed import data_place, model_place
from qvla.data.archive import take_in_files
from qvla.data.layouts import PHOTOS, READ_AS_TABLES
from qvla.errors import QvlaError
from qvla.files import parse_json
from qvla.methods import placement
from qvla.methods.recipe import Recipe, fields_of, make_recipe
from qvla.methods.registry import KINDS, METHODS, makes_model
from qvla.models.architectures import PALIGEMMA_3B
from qvla.records import store as records
from qvla.settings import Settings
from qvla.tuning import forecast
from qvla.ui.admin.data_choices import DataChoices, short
from qvla.ui.admin.data_sheet import render_taken
from qvla.ui.admin.fields import (
    FIELDS,
    FIRST,
    RARE,
    USUAL,
    Field,
    as_text,
    component,
    given_values,
    written,
)
from qvla.ui.admin.forecast_view import render_forecast
from qvla.ui.admin.gate import Gate
from qvla.ui.admin.method_cards import costs, render_method_cards
from qvla.ui.admin.recipe_cards import CARDS, REPORT, card_of, card_values
from qvla.ui.tables import record_folders
from qvla.ui.uploads import UploadButton

if TYPE_CHECKING:
    from qvla.jobs.service import Jobs

Updates = dict[Any, Any]

NO_DATA = (
    '<p class="notice">Choose the data to train on first: upload a zip of photos with their '
    "<code>captions.csv</code>, or name a folder below <code>QVLA_DATA</code> or "
    "<code>QVLA_DATA_ROOTS</code>, or a data set on the Hub (<code>owner/name</code>).</p>"
)


class JobForm:
    """Lays the form out where it is made; `inputs` are in the order of FIELDS."""

    def __init__(self, settings: Settings, jobs: Callable[[], Jobs]) -> None:
        self.settings, self._jobs = settings, jobs
        self.data = DataChoices(settings)
        self.of: dict[str, Any] = {}
        self.wanted = gr.State(None)  # the model that another tab asked for
        self.cards = gr.Radio(
            CARDS, value=REPORT, label="Begin with", elem_id="job-cards", elem_classes="cards"
        )
        with gr.Row(elem_classes="job-form"):
            with gr.Column(min_width=300, scale=3):
                self._place(FIRST[:1])
                with gr.Accordion(
                    "What each method costs", open=False, elem_id="job-costs"
                ) as self.costs:
                    self.methods = gr.HTML(elem_id="job-methods", label="Methods")
                self._place(FIRST[1:])
                self._place_upload()
                with gr.Row(elem_classes="fields"):
                    self._place(USUAL)
                with (
                    gr.Accordion("More settings", open=False, elem_id="job-more") as self.more,
                    gr.Row(elem_classes="fields"),
                ):
                    self._place(RARE)
            with gr.Column(min_width=300, scale=2, elem_classes="job-preview"):
                self.preview = gr.HTML(elem_id="job-preview", label="Preview")
                self.problem = gr.HTML(elem_id="job-problem", label="Problem")
                self.submit = gr.Button("Queue fine-tune", variant="primary", elem_id="job-submit")

    @property
    def inputs(self) -> list[Any]:
        return [self.of[field.name] for field in FIELDS]

    @property
    def shown(self) -> list[Any]:
        """What `show` updates: with the preview, the fields that come and go with the method."""
        by_method = [self.of[field.name] for field in FIELDS if field.methods]
        return [self.preview, self.problem, self.submit, self.cards, *by_method]

    @property
    def with_defaults(self) -> list[Any]:
        """The fields that methods and presets have defaults of their own for."""
        return [self.of[name] for name in _own_defaults()]

    @property
    def on_method(self) -> Callable[..., Any]:
        """Binds what happens when a method or a preset is chosen."""
        return partial(gr.on, [self.of["method"].input, self.of["preset"].input])

    def take_defaults(self, kind: str, preset: str, *shown: Any) -> Updates:
        """Those of a method and preset that were just chosen, but for what somebody typed."""
        usual = fields_of(KINDS[kind].method) if kind in KINDS else SimpleNamespace()
        if preset in placement.PRESETS and hasattr(usual, "rank"):
            usual.rank = placement.PRESETS[preset].rank
        updates: Updates = {}
        for (name, known), value in zip(_own_defaults().items(), shown, strict=True):
            own = getattr(usual, name, None)
            if own is not None and as_text(value) in known:
                is_text = isinstance(self.of[name], gr.Textbox)
                updates[self.of[name]] = gr.update(value=as_text(own) if is_text else own)
        return updates

    def _place_upload(self) -> None:
        most = self.settings.max_upload_mb
        with gr.Row(elem_classes="job-upload"):
            self.upload = UploadButton(
                f"Upload a zip, or a table and its photos (up to {most} MB)",
                file_types=[".zip", *sorted(READ_AS_TABLES | PHOTOS)],
                file_count="multiple",
                size="sm",
                elem_id="job-upload",
                min_width=200,
            )
            self.uploaded = gr.HTML(elem_id="job-uploaded", label="Upload")

    def _place(self, fields: Iterable[Field]) -> None:
        for field in fields:
            self.of[field.name] = component(field)

    # ---- what may be chosen -------------------------------------------------------------------

    @property
    def taking(self) -> list[Any]:
        """What `take` fills."""
        return [self.wanted, *self.inputs]

    def take(self, values: dict[str, Any]) -> Updates:
        """A recipe's values, by name, in the form's fields."""
        return {**self.fill(values), self.wanted: values.get("model")}

    def fill(self, values: Mapping[str, Any]) -> Updates:
        """The same, of a model that is among the choices; what is no field is passed over."""
        return {
            self.of[field.name]: gr.update(value=written(field, values[field.name]))
            for field in FIELDS
            if field.name in values
        }

    def take_card(self, card: Any, method: Any) -> Updates:
        """Fills in what a card says; the custom one opens the settings that are out of sight."""
        values = card_values(card, method)
        return self.fill(values) if values else {self.more: gr.Accordion(open=True)}

    def show_costs(self, model: Any) -> Updates:
        """The cards of all methods on the model that is chosen; raises QvlaError for no model."""
        place = model_place(model or "", self.settings, self._full())
        return {self.methods: render_method_cards(costs(place), place)}

    def keep_wanted(self, gate: Gate, event: Any) -> Any:
        """Chooses the model that was asked for after this event, which chose the usual one."""
        return gate.on(
            event,
            lambda who, wanted: self.choices(wanted) if wanted else {},
            name="keep_wanted",
            inputs=[self.wanted],
            outputs=[self.of["model"], self.of["data"]],
        )

    def choices(self, wanted: str | None = None) -> Updates:
        """The base models and data to choose from, with the one that is wanted; others may be
        typed.
        """
        models = [(short(self.settings.model), self.settings.model), (PALIGEMMA_3B, PALIGEMMA_3B)]
        models += [(f"{folder.parent.name}, all weights", str(folder)) for folder in self._full()]
        return {
            self.of["model"]: gr.Dropdown(
                choices=list(dict.fromkeys(models)), value=wanted or self.settings.model
            ),
            self.of["data"]: self.data.usual(),
        }

    def take_in(self, files: Any) -> Updates:
        """Uploaded files as the form's data, with what the check says of them."""
        try:
            taken = take_in_files([Path(str(file)) for file in files or ()], self.settings.uploads)
            said = render_taken(taken)
        except QvlaError as error:
            return {self.uploaded: problem(str(error))}
        return {self.uploaded: said, self.of["data"]: self.data.dropdown(taken.folder)}

    def forget(self) -> Updates:
        empty = gr.Dropdown(choices=[], value=None)
        return {
            self.wanted: None,
            self.of["model"]: empty,
            self.of["data"]: empty,
            self.preview: "",
            self.problem: "",
            self.uploaded: "",
            self.methods: "",
            self.costs: gr.Accordion(open=False),
        }

    def _full(self) -> list[Path]:
        """The models that finished full fine-tunes made."""
        jobs = self._jobs()
        full = [job.id for job in jobs.all() if makes_model(job.method)]
        return [folder for job_id in full if (folder := jobs.adapter(job_id)) is not None]

    # ---- what it comes to ---------------------------------------------------------------------

    def recipe(self, *values: Any) -> Recipe:
        """The recipe that the form says. Raises PlaceError or TrainingError."""
        given = given_values(values)
        # What it names is confined before anything looks at it.
        given["data"] = Path(data_place(given.get("data", ""), self.settings))
        given["model"] = model_place(given.get("model", ""), self.settings, self._full())
        return make_recipe(
            **given,
            output=self.settings.jobs.absolute() / "new" / "adapter",
            device=self.settings.device,
            device_lock=self.settings.device_lock.absolute(),
        )

    def check(self, recipe: Recipe) -> None:
        """Raises what `preflight` and the data's splits have against the recipe, in a sentence."""
        from qvla.tuning import preflight

        forecast.check_data(recipe)
        if self.settings.worker == "off":  # another machine will do it, with its own memory
            forecast.count_parameters(recipe)
        else:
            preflight.check(recipe)

    def show(self, *values: Any) -> Updates:
        """The preview, and the fields of the chosen method."""
        method = values[0]
        typed = {field.name: value for field, value in zip(FIELDS, values, strict=False)}
        card = card_of(typed)
        updates: Updates = {
            self.of[field.name]: gr.update(visible=method in field.methods)
            for field in FIELDS
            if field.methods
        }
        updates[self.cards] = card
        if not typed.get("data"):
            return {
                **updates,
                self.preview: NO_DATA,
                self.problem: "",
                self.submit: gr.Button(interactive=False),
            }
        updates[self.submit] = gr.Button(interactive=True)
        try:
            recipe = self.recipe(*values)
            found = forecast.forecast(recipe, self._speed(recipe))
            updates[self.preview] = render_forecast(found, recipe)
            self.check(recipe)
        except QvlaError as error:
            return {self.preview: "", **updates, self.problem: problem(str(error))}
        return {**updates, self.problem: ""}

    def _speed(self, recipe: Recipe) -> forecast.Speed | None:
        kept = records.find("bench/training", record_folders(self.settings), lambda _: None)
        return forecast.speed_of(recipe, self._cards(), kept)

    def _cards(self) -> Iterable[dict[str, Any]]:
        jobs = self._jobs()
        for job in jobs.all():
            folder = jobs.adapter(job.id)
            if folder is not None:
                with suppress(OSError, ValueError):
                    yield parse_json((folder / "run.json").read_bytes())


def _own_defaults() -> dict[str, set[str]]:
    """Fields whose default depends on the method or preset, with all of these as text."""
    found: dict[str, set[str]] = {"rank": {as_text(one.rank) for one in placement.PRESETS.values()}}
    for method in METHODS.values():
        for name, value in method.defaults.items():
            found.setdefault(name, set()).add(as_text(value))
    return {
        name: known | {as_text(Recipe.model_fields[name].default)} for name, known in found.items()
    }


def problem(sentence: str) -> str:
    return f'<p class="problem" role="alert">{escape(sentence)}</p>'
