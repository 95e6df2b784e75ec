"""BitFit against a copy of the base whose biases are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch import nn

from qvla.methods.bitfit import BitFitConfig
from qvla.methods.recipe import fields_of
from qvla.methods.registry import METHODS
from qvla.methods.tuner import TunerError
from qvla.models.architectures import PALIGEMMA_3B
from qvla.models.families import built_in, family_of
from tests.support.adapted import load, logits, make_inputs, randomise


def biases(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name.removesuffix(".bias"): parameter
        for name, parameter in model.named_parameters()
        if name.endswith(".bias")
    }


def bare(name: str) -> str:
    return name.removeprefix("base_model.model.").removesuffix(".bitfit_delta.default")


def test_differences_add_to_every_bias_and_the_base_is_left_alone(tiny_checkpoint: Path) -> None:
    base, written = load(tiny_checkpoint), load(tiny_checkpoint)
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    model = get_peft_model(base, BitFitConfig()).eval()
    randomise(model, "default", seed=1)
    deltas = {
        bare(name): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    due = biases(written)
    assert deltas.keys() == due.keys()
    with torch.no_grad():
        for name, delta in deltas.items():
            due[name] += delta
    batch = make_inputs(tiny_checkpoint, 2)
    told = logits(model, batch)
    torch.testing.assert_close(told, logits(written, batch), rtol=0, atol=1e-4)
    assert (told - logits(load(tiny_checkpoint), batch)).abs().max() > 0.05
    held = {
        n.replace(".base_layer", ""): p for n, p in base.named_parameters() if "_delta" not in n
    }
    assert held.keys() == before.keys()
    assert all(torch.equal(held[name], parameter) for name, parameter in before.items())


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_a_merge_is_taken_back_and_stays_when_it_is_unloaded(
    precision: str, tiny_checkpoint: Path
) -> None:
    base = load(tiny_checkpoint, precision)
    model = get_peft_model(base, BitFitConfig()).eval()
    randomise(model, "default", seed=2)
    batch = make_inputs(tiny_checkpoint, 2, base.dtype)
    near = {"rtol": 0, "atol": 1e-4 if precision == "fp32" else 0.5}
    due, start = logits(model, batch), None
    with model.disable_adapter():
        start = logits(model, batch)
    assert (due - start).abs().max() > 2 * near["atol"]
    model.merge_adapter()
    torch.testing.assert_close(logits(model, batch), due, **near)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model, batch), due, **near)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model, batch), start, **near)
    merged = model.merge_and_unload(safe_merge=True)
    assert "bitfit" not in str(merged)
    torch.testing.assert_close(logits(merged, batch), due, **near)


def test_it_is_counted_at_full_size_and_stays_out_of_the_language_model() -> None:
    config = built_in()[PALIGEMMA_3B]()
    with torch.device("meta"):
        model = get_peft_model(family_of(config).skeleton(config), BitFitConfig())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hidden, wide, layers, projected = 1152, 4304, 27, 2048
    layer = 4 * hidden + wide + hidden + 2 * hidden  # attention, MLP, norms
    assert sum(p.numel() for p in trained.values()) == layers * layer + 2 * hidden + projected
    assert not any("language_model" in name or "lm_head" in name for name in trained)


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        ({"placement": "top"}, [1]),
        ({"towers": "vision"}, [0, 1]),
        ({"preset": "captioning"}, [1]),
        ({"vision_layers": [0]}, [0]),
    ],
)
def test_a_placement_means_the_biases_of_its_layers_alone(
    given: dict, layers: list[int], tiny_checkpoint: Path
) -> None:
    base = load(tiny_checkpoint)
    places = family_of(base.config).places(base.config)
    method = METHODS["bitfit"]
    model = get_peft_model(base, method.config(fields_of(method, **given), places))
    tower = r".*vision_tower\.encoder\.layers\.(\d+)\."
    inside = {name: re.match(tower, name) for name in biases(load(tiny_checkpoint))}
    due = [name for name, match in inside.items() if match and int(match[1]) in layers]
    found = [bare(name) for name, p in model.named_parameters() if p.requires_grad]
    assert due and sorted(found) == sorted(due)


def test_a_placement_without_biases_is_refused(tiny_checkpoint: Path) -> None:
    base = load(tiny_checkpoint)
    places = family_of(base.config).places(base.config)
    method = METHODS["bitfit"]
    with pytest.raises(TunerError, match=r"Gemma and Llama have none.*--towers vision"):
        get_peft_model(base, method.config(fields_of(method, towers="language"), places))


def test_a_model_without_biases_is_refused() -> None:
    with pytest.raises(TunerError, match="has no bias to train"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2, bias=False)), BitFitConfig())
