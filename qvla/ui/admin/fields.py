"""The fields of the form: which of the recipe's there are, as components, and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr

from qvla.methods.recipe import Recipe, TrainingError
from qvla.methods.registry import kinds_with
from qvla.methods.values import numbers, parts

LONGEST = 2000  # letters of a field


@dataclass(frozen=True)
class Field:
    """A field of the recipe on the form."""

    name: str
    label: str
    width: int = 150  # pixels at least

    @property
    def methods(self) -> tuple[str, ...]:
        """The recipe's methods that it is for; none for a field that all have."""
        return kinds_with(self.name)


FIRST = (
    Field("method", "Method", width=300),
    Field("model", "Base model", width=300),
    Field("data", "Data", width=300),
)
USUAL = (
    Field("splits", "Training splits"),
    Field("eval_splits", "Evaluation splits"),
    Field("epochs", "Epochs"),
    Field("max_steps", "Most steps"),
    Field("batch_size", "Batch size"),
    Field("gradient_accumulation", "Gradient accumulation"),
    Field("learning_rate", "Learning rate"),
    Field("reduction_factor", "Reduction factor"),
    Field("rank", "Rank"),
    Field("block_size", "Block size"),
    Field("virtual_tokens", "Virtual tokens"),
    Field("tasks", "Tasks"),
    Field("train_task", "Task to train"),
    Field("towers", "Towers"),
    Field("placement", "Placement"),
    Field("layers", "Decoder layers"),
    Field("optimiser", "Optimiser"),
    Field("augment", "Augmentation"),
    Field("seed", "Seed"),
    Field("train_norms", "Train norms"),
)
RARE = (
    Field("sources", "Sources"),
    Field("caption_template", "Caption template", 300),
    Field("eval_photos", "Evaluation photos"),
    Field("sample_photos", "Sample captions"),
    Field("eval_steps", "Evaluate every"),
    Field("save_steps", "Save every"),
    Field("log_steps", "Log every"),
    Field("lr_scheduler", "Schedule"),
    Field("vision_learning_rate", "Vision learning rate"),
    Field("projector_learning_rate", "Projector learning rate"),
    Field("unfreeze", "Unfreezing"),
    Field("warmup_steps", "Warm-up steps"),
    Field("weight_decay", "Weight decay"),
    Field("adam_beta2", "AdamW's beta 2"),
    Field("max_grad_norm", "Gradient norm"),
    Field("dropout", "Dropout"),
    Field("activation", "Activation"),
    Field("sites", "Sublayers"),
    Field("lora_alpha", "LoRA alpha"),
    Field("lora_targets", "Decoder targets", 300),
    Field("vision_targets", "Vision targets", 300),
    Field("projector", "Projector"),
    Field("vision_placement", "Vision placement"),
    Field("vision_layers", "Vision layers"),
    Field("preset", "Task preset"),
    Field("adaptive_rank", "Rank by layer"),
    Field("rank_pattern", "Rank by name"),
    Field("prefix", "Prompt"),
    Field("precision", "Base precision"),
    Field("gradient_checkpointing", "Gradient checkpointing"),
    Field("bf16", "bfloat16 autocast"),
)
FIELDS = FIRST + USUAL + RARE
LABELS = {field.name: field.label for field in FIELDS}


def component(field: Field, prefix: str = "job") -> Any:
    """The component that fits the field's type, with the recipe's description as its help. `prefix`
    begins its element's id.
    """
    info = Recipe.model_fields[field.name]
    kinds = [kind for kind in _members(info.annotation) if kind is not type(None)]
    optional = len(kinds) < len(_members(info.annotation))
    default = None if info.is_required() else info.default
    options: dict[str, Any] = {
        "label": field.label,
        "info": info.description,
        "elem_id": f"{prefix}-{field.name.replace('_', '-')}",
        "min_width": field.width,
        "visible": not field.methods or Recipe.model_fields["method"].default in field.methods,
        "interactive": True,
    }
    kind = kinds[0]
    if field.name == "method":
        return gr.Radio(list(get_args(kind)), value=default, **options)
    if info.is_required():
        return gr.Dropdown([], value=None, allow_custom_value=True, **options)
    if get_origin(kind) is Literal or (kind is bool and optional):
        names = list(get_args(kind)) or [("on", "true"), ("off", "false")]
        choices = [("default", ""), *names] if optional else names
        return gr.Dropdown(choices, value="" if optional else default, **options)
    if kind is bool:
        return gr.Checkbox(default, **options)
    if get_origin(kind) is list and get_origin(get_args(kind)[0]) is Literal:
        return gr.CheckboxGroup(list(get_args(get_args(kind)[0])), value=default, **options)
    if kind is int and not optional:
        return gr.Number(default, precision=0, **options)
    return gr.Textbox(as_text(default), max_lines=1, max_length=LONGEST, **options)


def as_text(value: Any) -> str:
    """A value as a field of text shows it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def given_values(values: Sequence[Any]) -> dict[str, Any]:
    """The recipe's values; what is empty, or not for the method, is left to its default."""
    if len(values) != len(FIELDS):
        raise TrainingError(f"The form has {len(FIELDS)} fields, not {len(values)}.")
    own = {
        field.name: value
        for field, value in zip(FIELDS, values, strict=True)
        if not field.methods or values[0] in field.methods
    }
    return read_values(own)


def read_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in fields, by name, as the recipe takes it; what is empty is left out."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        value = value.strip() if isinstance(value, str) else value
        info = Recipe.model_fields[name]
        lists = [kind for kind in _members(info.annotation) if get_origin(kind) is list]
        if lists and isinstance(value, str):
            of_numbers = get_args(lists[0]) == (int,)
            value = numbers(value, LABELS.get(name, name)) if of_numbers else parts(value)
            if not value and info.default is None:
                continue
        if value is None or value == "":
            continue
        given[name] = value
    return given


def written(field: Field, value: Any) -> Any:
    """A recipe's value as its component shows it: the other way round."""
    members = _members(Recipe.model_fields[field.name].annotation)
    kinds = [kind for kind in members if get_origin(kind) is list]
    choices = bool(kinds) and get_origin(get_args(kinds[0])[0]) is Literal
    if value is None or (isinstance(value, list) and not choices):
        return as_text(value)
    if isinstance(value, bool) and type(None) in members:  # a choice of its own for neither
        return str(value).lower()
    return value


def _members(annotation: Any) -> list[Any]:
    """The members of a union, or the one type."""
    is_union = get_origin(annotation) is Union or type(annotation).__name__ == "UnionType"
    return list(get_args(annotation)) if is_union else [annotation]
