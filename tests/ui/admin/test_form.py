"""What the form of a fine-tune shows when a method or a task's preset is chosen."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from qvla.methods.registry import kinds_with
from qvla.settings import Settings
from qvla.ui.admin.fields import FIELDS, given_values
from qvla.ui.admin.form import JobForm


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
