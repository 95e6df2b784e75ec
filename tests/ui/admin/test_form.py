"""What the form of a fine-tune shows when a method or a task's preset is chosen."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from qvla.methods.recipe import make_recipe
from qvla.methods.registry import kinds_with
from qvla.settings import Settings
from qvla.ui.admin.curves import has, together
from qvla.ui.admin.fields import FIELDS, given_values, written
from qvla.ui.admin.form import JobForm
from qvla.ui.admin.job_parts import render_samples
from qvla.ui.admin.recipe_cards import CUSTOM, QUICK, REPORT, card_of, card_values


@pytest.fixture(scope="module")
def form() -> JobForm:
    with gr.Blocks():
        return JobForm(Settings(), lambda: pytest.fail("no job is asked for"))


def chosen(form: JobForm, kind: str, preset: str = "", **typed: Any) -> dict[str, Any]:
    """What the form's fields change to, by name."""
    names = {id(component): name for name, component in form.of.items()}
    shown = [typed.get(names[id(one)], one.value) for one in form.with_defaults]
    updates = form.take_defaults(kind, preset, *shown)
    return {names[id(component)]: update["value"] for component, update in updates.items()}


def test_a_method_brings_its_own_defaults(form: JobForm) -> None:
    assert chosen(form, "vera")["rank"] == chosen(form, "qvera")["rank"] == 256
    assert chosen(form, "lora", rank=256)["rank"] == 16
    assert chosen(form, "ia3")["lora_targets"] == "k_proj, v_proj, down_proj"
    assert chosen(form, "ia3")["vision_targets"] == "k_proj, v_proj, fc2"
    assert chosen(form, "full") == chosen(form, "no such method") == {}


def test_a_preset_brings_its_rank(form: JobForm) -> None:
    assert chosen(form, "lora", "vqa")["rank"] == 24
    assert "rank" not in chosen(form, "oft", "vqa")


def test_what_somebody_typed_stays(form: JobForm) -> None:
    assert "rank" not in chosen(form, "vera", "grounding", rank=5)
    assert "lora_targets" not in chosen(form, "ia3", lora_targets="o_proj")


def test_placements_are_fields_of_the_methods_that_have_them() -> None:
    names = {field.name: field for field in FIELDS}
    assert names["vision_layers"].methods == kinds_with("vision_layers")
    assert "prefix" not in names["towers"].methods and "prefix" in names["layers"].methods
    typed = {"method": "lora", "model": "base", "data": "data", "vision_layers": "0, 2-3"}
    typed |= {"rank_pattern": "q_proj=8, v_proj=4", "projector": True}
    typed |= {"caption_template": " {title}: {attributes.color}, {pattern} "}
    given = given_values([typed.get(field.name) for field in FIELDS])
    assert given["caption_template"] == "{title}: {attributes.color}, {pattern}"
    assert given["vision_layers"] == [0, 2, 3] and given["projector"] is True
    assert given["rank_pattern"] == ["q_proj=8", "v_proj=4"]


def recipe_of(values: dict[str, Any]) -> dict[str, Any]:
    """What the form says with these values in its fields."""
    typed = {"model": "base", "data": "data", **values}
    fields = [
        written(field, typed[field.name]) if field.name in typed else None for field in FIELDS
    ]
    return make_recipe(**given_values(fields), output="out").model_dump()


@pytest.mark.parametrize("method", ["adapter", "qvla", "vera"])
def test_a_card_fills_in_a_whole_recipe(method: str) -> None:
    bare = {"model": "base", "data": "data", "output": "out"}
    quick = card_values(QUICK, method)
    short = {"max_steps": 20, "log_steps": 1, "eval_steps": 10, "eval_photos": 16}
    assert recipe_of(quick) == make_recipe(method=method, **bare, **short).model_dump()
    report = card_values(REPORT, method)
    kind = method if method in ("adapter", "qvla") else "adapter"  # which the report trained
    assert recipe_of(report) == make_recipe(method=kind, **bare).model_dump()
    assert card_values(CUSTOM, method) == card_values("none such", method) == {}
    for card, values in ((QUICK, quick), (REPORT, report)):
        shown = {field.name: written(field, values.get(field.name)) for field in FIELDS}
        assert card_of(shown) == card
        assert card_of(shown | {"seed": 5}) == CUSTOM


def test_any_recipe_can_be_put_into_the_form_again() -> None:
    values = {"method": "lora", "model": "base", "data": "data", "output": "out", "layers": [0, 2]}
    values |= {"gradient_checkpointing": False, "bf16": True, "learning_rate": 0.003, "rank": 8}
    recipe = make_recipe(**values)
    assert recipe_of(recipe.model_dump(mode="json", exclude={"output"})) == recipe.model_dump()


def rows(*losses: float) -> list[dict[str, Any]]:
    return [
        {"event": "step", "step": step, "loss": loss} for step, loss in enumerate(losses, start=1)
    ]


def test_curves_of_several_jobs_are_one_picture() -> None:
    runs = {"Rivers": rows(3.0, 2.0, 1.0), "Roads": rows(4.0, 3.5)}
    figure = together(runs, "Training loss")
    drawn = {one.name: (list(one.x), list(one.y)) for one in figure.data if one.y[0] is not None}
    assert drawn == {"Rivers": ([1, 2, 3], [3.0, 2.0, 1.0]), "Roads": ([1, 2], [4.0, 3.5])}
    assert figure.layout.showlegend
    assert not has(runs["Rivers"], "Evaluation loss") and not has(runs["Rivers"], "anything")


def test_what_was_said_before_the_first_step_stands_beside_the_newest() -> None:
    def said(event: str, step: int, text: str) -> dict[str, Any]:
        return {"event": event, "step": step, "samples": [{"image": "0.png", "caption": text}]}

    told = [said("samples", 0, "a"), said("evaluation", 2, "b"), said("evaluation", 4, "c")]
    page = render_samples(told, "nowhere")
    assert (
        page.index("step 4") < page.index("before") < page.index("Between") < page.index("step 2")
    )
    assert "Between" not in render_samples(told[:2], "nowhere")
