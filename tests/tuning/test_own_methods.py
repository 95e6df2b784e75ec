"""The methods that are ours, through a whole run: recipe, folder, pane."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from qvla.data.examples import read_examples
from qvla.methods.recipe import TrainingError, fields_of
from qvla.methods.registry import METHODS
from qvla.models.adapters import load_adapter
from qvla.models.architectures import PALIGEMMA_3B
from qvla.models.backbone import load_backbone
from qvla.models.families import built_in, family_of
from qvla.tuning.training import train
from tests.support.adapted import logits, make_inputs
from tests.support.alone import loaded
from tests.support.colours import batch_of, plain_loss, recipe_for


@pytest.mark.parametrize(
    ("method", "rate", "settings"),
    [
        ("prefix", 0.3, {"virtual_tokens": 8}),
        ("bitfit", 0.1, {}),
        ("multitask", 0.03, {"rank": 4, "tasks": ["caption", "vqa"], "train_task": "vqa"}),
        ("crossmodal", 0.3, {"rank": 4}),
        pytest.param("qprefix", 0.3, {"virtual_tokens": 8}, marks=pytest.mark.slow),
    ],
)
def test_a_run_learns_and_its_folder_answers_as_peft_alone_has_it(
    method: str, rate: float, settings: dict, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    recipe = recipe_for(
        *(tiny_checkpoint, data, output),
        **{"method": method, "learning_rate": rate, "eval_splits": [], "max_steps": 16, **settings},
    )
    card = train(recipe).card
    weights = load_file(output / "adapter_model.safetensors")
    assert card["parameters"]["trained"] == sum(weight.numel() for weight in weights.values())
    losses = [row["loss"] for row in card["curve"] if "loss" in row]
    assert losses[-1] < losses[0] - 0.1
    backbone = load_backbone(tiny_checkpoint, recipe.base_precision, device="cpu")
    before = [parameter.clone() for parameter in backbone.model.parameters()]
    inputs = make_inputs(tiny_checkpoint, 2, backbone.model.dtype)
    start = logits(backbone.model, inputs)
    adapter = load_adapter(backbone, output, "pane_one")
    told = logits(adapter.model, inputs)
    assert (told - start).abs().max() > 0.01
    assert adapter.changes_sight is (method == "bitfit")
    assert adapter.mixes is (method == "multitask")
    assert torch.equal(logits(backbone.model, inputs), start)
    assert all(map(torch.equal, before, backbone.model.parameters()))
    if recipe.base_precision == "fp32":
        bare = loaded(tiny_checkpoint)
        alone = PeftModel.from_pretrained(bare, output).eval()
        torch.testing.assert_close(told, logits(alone, inputs), rtol=0, atol=1e-5)
        examples = read_examples(data, splits=["train"])
        with torch.no_grad():
            batch = batch_of(tiny_checkpoint, examples)
            learnt = plain_loss(alone, batch)
            with alone.disable_adapter():
                assert learnt < plain_loss(alone, batch) - 0.1


def test_a_run_goes_on_with_another_task_from_the_folder_of_one(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    first = recipe_for(
        *(tiny_checkpoint, data, tmp_path / "first"),
        **{"method": "multitask", "rank": 2, "tasks": ["caption", "vqa"], "max_steps": 2},
        **{"lora_targets": ["o_proj"], "layers": [1], "eval_splits": []},
    )
    train(first)
    second = first.model_copy(
        update={"output": tmp_path / "second", "start_from": first.output, "train_task": "vqa"}
    )
    train(second)
    before = load_file(first.output / "adapter_model.safetensors")
    after = load_file(second.output / "adapter_model.safetensors")
    for name, weight in before.items():
        if "multitask_task_b" in name:
            assert weight[0].any() and not weight[1].any() and after[name][1].any()
            torch.testing.assert_close(after[name][0], weight[0], rtol=1e-3, atol=1e-6)
        elif name.endswith("multitask_b"):
            assert not torch.allclose(after[name], weight, rtol=1e-2)


def test_an_odd_rank_has_no_halves(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny_checkpoint, data, tmp_path / "out", method="multitask", rank=3)
    with pytest.raises(TrainingError, match="even rank for its two halves, not 3"):
        train(recipe)


def test_full_size_counts_follow_from_the_sizes() -> None:
    config = built_in()[PALIGEMMA_3B]()
    family = family_of(config)
    model, counts = family.skeleton(config), {}
    for name, given in (
        ("prefix", {}),
        ("multitask", {"tasks": ["a", "b", "c"]}),
        ("crossmodal", {}),
    ):
        method = METHODS[name]
        with torch.device("meta"):
            recipe = fields_of(method, **given)
            adapted = get_peft_model(model, method.config(recipe, family.places(config)))
            counts[name] = method.count(adapted).total
            model = adapted.unload()
    hidden, wide, keys, layers, rank, tokens = 2048, 16384, 256, 18, 16, 20
    sides = 2 * (hidden + hidden) + 2 * (hidden + keys) + 3 * (hidden + wide)
    assert counts == {
        "prefix": layers * tokens * 2 * keys,
        "multitask": (1 + 3) * (rank // 2) * layers * sides,
        "crossmodal": 2 * (2 * rank * hidden + 1),
    }
