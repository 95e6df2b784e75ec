"""LLM.int8 against plain arithmetic, the planner's bytes against those that lie in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from qvla.methods.recipe import TrainingError, make_recipe
from qvla.models import int8
from qvla.models.adapters import AdapterError, load_adapter
from qvla.models.backbone import load_backbone
from qvla.models.footprint import census
from qvla.models.params import report
from qvla.models.views import view_of
from qvla.planning.planner import PlanError, plan
from tests.support.peft_zoo import make


@pytest.fixture(scope="module")
def backbone(tiny_of_family: Path):
    return load_backbone(tiny_of_family, "int8", device="cpu")


def test_the_planners_bytes_are_those_that_lie_in_memory(tiny_of_family: Path, backbone) -> None:
    found = census(backbone.model)
    assert report(tiny_of_family)["weight_bytes"]["int8"] == found.total_bytes
    held = {one.data_ptr(): one.nbytes for one in backbone.model.parameters()}
    for _, layer in int8.layers(backbone.model):
        held |= {one.data_ptr(): one.nbytes for one in int8.held(layer)}
    assert sum(held.values()) == found.total_bytes
    planned = plan(tiny_of_family, "base", task="captioning", precision="int8", device="cpu")
    assert planned.weights == found.total_bytes
    assert found.total_parameters == sum(report(tiny_of_family)["parts"].values())


def test_a_weight_is_the_checkpoints_rounded_to_its_rows_largest(
    tiny_of_family: Path, backbone
) -> None:
    plain = AutoModelForImageTextToText.from_pretrained(tiny_of_family, dtype=torch.bfloat16)
    layers = dict(int8.layers(backbone.model))
    linear = [n for n, m in plain.named_modules() if isinstance(m, torch.nn.Linear)]
    assert set(layers) == set(linear) - {"lm_head"}
    for name, layer in layers.items():
        weight, scale = int8.held(layer)
        due = plain.get_submodule(name).weight.float()
        assert torch.equal(scale, due.abs().amax(1))
        assert (weight * scale[:, None] / 127 - due).abs().max() <= scale.max() / 127
        assert weight.data_ptr() == layer.weight.data_ptr()


def test_a_view_is_over_the_same_bytes_and_says_the_same(backbone) -> None:
    view = view_of(backbone.model)
    for (_, layer), (_, own) in zip(int8.layers(backbone.model), int8.layers(view), strict=True):
        assert own is not layer and own.state is not layer.state
        for mine, theirs in zip(int8.held(own), int8.held(layer), strict=True):
            assert mine is theirs
    ids = torch.tensor([[2, 7, 8, 9]])
    with torch.no_grad():
        mine, theirs = (model(input_ids=ids).logits for model in (view, backbone.model))
    assert torch.equal(mine, theirs)


def test_what_does_not_work_in_8_bits_is_told(
    backbone, tiny_of_family: Path, tmp_path: Path
) -> None:
    folder = make("ia3", tiny_of_family, tmp_path / "ia3")
    with pytest.raises(AdapterError, match="does not work on this model in int8"):
        load_adapter(backbone, folder, "one")
    fields = {"model": "m", "data": "d", "output": "o", "precision": "int8"}
    refused = {
        "full": "weights of 8 bits take no gradients",
        "dora": "DoRA does not work on an INT8 base",
        "qlora": "has its base in NF4",
    }
    for method, told in refused.items():
        with pytest.raises(TrainingError, match=told):
            make_recipe(**fields, method=method)
    assert make_recipe(**fields, method="lora").base_precision == "int8"
    with pytest.raises(PlanError, match="int8 cannot be trained whole"):
        plan(tiny_of_family, "base", precision="int8")
