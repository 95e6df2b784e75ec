"""The registry against what really happens: each entry's word is tried on a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from qvla.methods.recipe import Recipe, TrainingError, fields_of, make_recipe
from qvla.methods.registry import (
    FIELDS,
    KINDS,
    METHODS,
    adapter_method,
    kinds_with,
    makes_model,
    method_of,
)
from qvla.methods.tuner import TunerError
from qvla.models.architectures import PALIGEMMA_3B
from qvla.models.backbone import load_backbone
from qvla.models.families import built_in, family_of
from qvla.models.params import read_model_config, report
from qvla.planning.trainable import Skeleton
from qvla.tuning.forecast import count_parameters
from qvla.tuning.methods import add_method, stand_in
from tests.support.adapted import load, logits, make_inputs, randomise

PLACEMENTS = {
    "adapter": [
        {},
        {"layers": [1], "sites": ["mlp"], "train_norms": True},
        {"towers": "both", "vision_placement": "top", "train_norms": True},
        {"towers": "vision", "vision_layers": [0]},
    ],
    "qvla": [{"layers": [0, 2], "reduction_factor": 4}],
    "lora": [
        {},
        {"layers": [0, 2], "lora_targets": ["q_proj", "up_proj"], "rank": 4},
        {"towers": "both", "adaptive_rank": True, "rank_pattern": [r"layers\.0\..*q_proj=3"]},
        {"preset": "captioning", "projector": True},
    ],
    "qlora": [{"layers": [1], "lora_targets": ["o_proj"]}],
    "dora": [{"placement": "top"}, {"towers": "both", "placement": "sparse", "rank": 2}],
    "qdora": [{"layers": [1], "lora_targets": ["v_proj"]}],
    "adalora": [{}, {"towers": "vision", "vision_layers": [1], "rank": 3}],
    "qadalora": [{"layers": [1]}],
    "vera": [{}, {"towers": "both", "layers": [2], "rank": 8, "projector": True}],
    "qvera": [{"layers": [0, 1]}],
    "oft": [{}, {"towers": "both", "placement": "bottom", "block_size": 8}],
    "qoft": [{"layers": [1]}],
    "boft": [{}, {"towers": "vision", "placement": "top", "block_size": 8}],
    "qboft": [{"layers": [1]}],
    "ia3": [{}, {"preset": "grounding"}],
    "prefix": [{}, {"layers": [0, 2], "virtual_tokens": 3}, {"placement": "top"}],
    "qprefix": [{"layers": [1]}],
    "bitfit": [{}, {"placement": "top"}, {"towers": "vision", "vision_layers": [0]}],
    "qbitfit": [{}],
    "multitask": [{}, {"layers": [1], "rank": 4, "lora_targets": ["q_proj"], "tasks": ["a", "b"]}],
    "qmultitask": [{"layers": [1], "lora_targets": ["o_proj"], "train_task": "caption"}],
    "crossmodal": [{}],
    "qcrossmodal": [{"rank": 4}],
    "full": [{}],
}
OWN = (
    *("bottleneck_", "lora_", "prefix_", "bitfit_", "multitask_", "crossmodal_"),
    *("vera_", "oft_", "boft_", "ia3_"),
)
CASES = [(name, given) for name, all_given in PLACEMENTS.items() for given in all_given]
# Where a recipe puts a method is counted for all of these. Training is tried once for each method,
# on a float base, and on NF4 of those that are not trained so in test_training_each.py.
TRAINED = [
    (name, all_given[0])
    for name, all_given in PLACEMENTS.items()
    if not KINDS[name].quantised or name in ("qlora", "qprefix", "qbitfit", "qmultitask")
]
TRAINED = [
    pytest.param(*case, marks=[] if case in TRAINED else [pytest.mark.slow]) for case in CASES
]


def recipe_for(model: object, method: str, **given: object) -> Recipe:
    return make_recipe(
        method=method, model=str(model), data="data", output="output", device="cpu", **given
    )


def bare(name: str) -> str:
    return name.removeprefix("base_model.model.")


def every(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """Parameters under all of their names, tied ones under each."""
    return list(model.named_parameters(remove_duplicate=False))


def test_the_names_that_users_know_are_all_there() -> None:
    assert list(KINDS) == list(PLACEMENTS)
    assert get_args(Recipe.model_fields["method"].annotation) == tuple(KINDS)
    with pytest.raises(TrainingError, match=r"method cannot be 'reft'.*'adapter', 'qvla'"):
        recipe_for("model", "reft")
    for method in METHODS.values():
        if method.on_nf4:
            assert method.nf4_reason is None
        else:
            with pytest.raises(TrainingError, match=r"does not work on an NF4 base: .*Use "):
                recipe_for("model", f"q{method.name}")


@pytest.mark.parametrize(("name", "given"), CASES)
def test_an_entry_touches_and_counts_what_the_injected_model_has(
    name: str, given: dict, tiny_checkpoint: Path
) -> None:
    recipe, config = recipe_for(tiny_checkpoint, name, **given), read_model_config(tiny_checkpoint)
    method, family = KINDS[name].method, family_of(config)
    bare_model, skeleton = family.skeleton(config), stand_in(config, recipe)
    touched = method.touched(bare_model, recipe, family.places(config))
    model = skeleton.model
    trained = {bare(own): p for own, p in model.named_parameters() if p.requires_grad}
    if method.is_adapter:
        wrapped = {bare(n) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
        assert sorted(touched) == sorted(wrapped)
        assert str(model.peft_config["default"].peft_type.value) == method.peft_type
        assert method_of(model.peft_config["default"].to_dict()) is method
    else:
        assert len(trained) == len(list(model.parameters()))
    assert all(own.startswith(tuple(f"{place}." for place in touched)) for own in trained)
    total = sum(parameter.numel() for parameter in trained.values())
    assert method.count(model).total == total
    base = sum(parameter.numel() for parameter in bare_model.parameters())
    assert count_parameters(recipe) == (total, base)
    planned, sizes = skeleton.train(method, recipe)
    assert sum(sizes) == total
    assert (planned.form == "full") is makes_model(name) is not method.is_adapter


@pytest.mark.parametrize(("name", "given"), TRAINED)
def test_a_recipe_trains_what_its_entry_says_on_the_base_that_it_says(
    name: str, given: dict, tiny_checkpoint: Path
) -> None:
    kind, recipe = KINDS[name], recipe_for(tiny_checkpoint, name, **given)
    assert recipe.kind is kind
    assert recipe.learning_rate == kind.method.learning_rate
    assert (recipe.base_precision == "nf4") is kind.quantised is recipe.recomputes
    backbone = load_backbone(tiny_checkpoint, recipe.base_precision, for_training=True)
    touched = kind.method.touched(
        backbone.model, recipe, backbone.family.places(backbone.model.config)
    )
    model = add_method(backbone, recipe).train()
    assert any(isinstance(one, Linear4bit) for one in model.modules()) is kind.quantised
    before = {own: p.detach().clone() for own, p in every(model)}
    batch = make_inputs(tiny_checkpoint, 2, backbone.model.dtype)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # LoRA's first matrix has no gradient while its second is zero
        model(**batch).logits.float().pow(2).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    moved = {
        bare(own) for own, parameter in every(model)
        if not torch.equal(parameter, before[own])
    }  # fmt: skip
    assert moved
    for place in touched:
        assert any(own.startswith(f"{place}.") for own in moved), place
    for own in moved:
        assert own.startswith(tuple(f"{place}." for place in touched)), own
        adapter = "base_layer" not in own and any(f".{prefix}" in own for prefix in OWN)
        assert adapter is kind.method.is_adapter


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if one.is_adapter])
def test_an_adapter_merges_if_its_entry_says_so(name: str, tiny_checkpoint: Path) -> None:
    method, base = METHODS[name], load(tiny_checkpoint)
    config = method.config(fields_of(method), family_of(base.config).places(base.config))
    model = get_peft_model(base, config, adapter_name="own").eval()
    randomise(model, "own", seed=1)
    batch = make_inputs(tiny_checkpoint, 2)
    due = logits(model, batch)
    if not method.merges:
        with pytest.raises(TunerError, match="cannot be merged"):
            model.merge_and_unload()
        return
    torch.testing.assert_close(logits(model.merge_and_unload(), batch), due, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if one.is_adapter])
def test_rows_mix_if_the_entry_says_so(name: str, tiny_checkpoint: Path) -> None:
    method, base = METHODS[name], load(tiny_checkpoint)
    config = method.config(fields_of(method), family_of(base.config).places(base.config))
    model = get_peft_model(base, config, adapter_name="one")
    if not method.mixes and method.needs_import is None:
        assert method_of(config.to_dict()) is method  # by which the line-up gives it its own view
        return
    model.add_adapter("two", config)
    model.eval()
    batch = make_inputs(tiny_checkpoint, 3)
    alone = {}
    for seed, adapter in enumerate(("one", "two")):
        randomise(model, adapter, seed)
        model.set_adapter(adapter)
        alone[adapter] = logits(model, batch)
    with model.disable_adapter():
        alone["__base__"] = logits(model, batch)
    names = ["two", "__base__", "one"]
    if not method.mixes:
        with pytest.raises(TunerError, match="cannot share a batch row by row"):
            model(**batch, adapter_names=names)
        return
    mixed = logits(model, {**batch, "adapter_names": names})
    for row, adapter in enumerate(names):
        torch.testing.assert_close(mixed[row], alone[adapter][row], rtol=0, atol=1e-4)
    assert (alone["one"] - alone["two"]).abs().max() > 0.01


def test_full_size_counts_follow_from_the_sizes() -> None:
    hidden, wide, keys, layers = 2048, 16384, 256, 18
    sides = 2 * (hidden + hidden) + 2 * (hidden + keys) + 3 * (hidden + wide)
    counts = report(method="lora", rank=4)  # the bottleneck's stand in test_params
    assert counts["adapter_params"] == 4 * layers * sides
    assert (counts["adapter_sites"], counts["adapter_norm_params"]) == (7 * layers, 0)
    recipe = recipe_for(PALIGEMMA_3B, "qlora", rank=8, lora_targets=["q_proj"], layers=[17])
    assert count_parameters(recipe) == (8 * (hidden + hidden), 2_923_466_480)


def test_lora_stays_out_of_the_vision_tower_which_has_projections_of_the_same_names() -> None:
    config = built_in()[PALIGEMMA_3B]()
    family, lora = family_of(config), METHODS["lora"]
    model = family.skeleton(config)
    same = [n for n, _ in model.named_modules() if n.startswith(family.tower) and "q_proj" in n]
    touched = lora.touched(model, fields_of(lora, lora_targets=["q_proj"]), family.places(config))
    assert same and touched == [f"{family.decoder_layers}.{i}.self_attn.q_proj" for i in range(18)]


def test_fields_are_those_of_the_recipe_and_say_whom_they_are_for() -> None:
    assert Recipe.model_fields.keys() >= FIELDS
    around = {"lora", "dora", "adalora", "vera", "oft", "boft", "multitask"}
    around |= {f"q{name}" for name in around} | {"ia3"}
    assert set(kinds_with("lora_targets")) == set(kinds_with("projector")) == around
    placed = around | {"adapter", "qvla", "bitfit", "qbitfit"}
    assert set(kinds_with("vision_layers")) == placed
    assert set(kinds_with("layers")) == placed | {"prefix", "qprefix"}
    assert kinds_with("rank_pattern") == ("lora", "qlora", "dora", "qdora")
    assert kinds_with("block_size") == ("oft", "qoft", "boft", "qboft")
    assert kinds_with("tasks") == kinds_with("train_task") == ("multitask", "qmultitask")
    assert kinds_with("virtual_tokens") == ("prefix", "qprefix")
    assert kinds_with("reduction_factor") == kinds_with("sites") == ("adapter", "qvla")
    assert kinds_with("epochs") == kinds_with("method") == ()
    given = vars(fields_of(METHODS["lora"], rank=2))
    assert given.keys() == set(METHODS["lora"].fields)
    assert (given["rank"], given["lora_alpha"], given["towers"]) == (2, 32.0, "language")
    assert fields_of(METHODS["vera"]).rank == recipe_for("model", "vera").rank == 256
    assert recipe_for("model", "vera", rank=16).rank == 16


def test_what_a_method_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(TrainingError, match="LoRA has no setting called sites: it has towers"):
        fields_of(METHODS["lora"], sites=["mlp"])
    with pytest.raises(TrainingError, match=r"no method 'full' that makes .* bottleneck, lora"):
        adapter_method("full")
    assert method_of({"peft_type": "LOHA"}) is None and not makes_model("loha")


def test_no_run_starts_from_an_adapter_whose_ranks_were_cut() -> None:
    with pytest.raises(TrainingError, match=r"method adalora: its ranks have been cut.*Leave"):
        recipe_for("model", "adalora", start_from="earlier")


def test_what_comes_of_each_is_said_as_before() -> None:
    said = {
        "adapter": "A bottleneck adapter on a frozen base",
        "qvla": "A bottleneck adapter trained on a frozen base in 4-bit NF4",
        "lora": "A LoRA adapter on a frozen base",
        "qlora": "A LoRA adapter trained on a frozen base in 4-bit NF4",
        "qdora": "A DoRA adapter trained on a frozen base in 4-bit NF4",
        "prefix": "A prefix on a frozen base",
        "bitfit": "Differences of biases on a frozen base",
        "full": "A base model of which all weights were trained",
    }
    assert {name: KINDS[name].made for name in said} == said
    for kind in KINDS.values():
        assert kind.method.on_nf4 or not kind.quantised
        assert kind.method.link.startswith("https://arxiv.org/abs/")


def test_reading_the_registry_is_light() -> None:
    check = (
        "import sys, qvla.methods.registry;"
        "print(sorted({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if one.is_adapter])
def test_an_outline_has_the_shapes_of_the_real_and_no_memory(
    name: str, tiny_checkpoint: Path
) -> None:
    method = METHODS[name]
    recipe = fields_of(method)
    skeleton = Skeleton(read_model_config(tiny_checkpoint))
    places = skeleton.family.places(skeleton.config)
    outline = method.outline(skeleton.model, method.config(recipe, places))
    real = get_peft_model(load(tiny_checkpoint), method.config(recipe, places))
    shapes = [
        {key: (tuple(one.shape), one.requires_grad) for key, one in every(model)}
        for model in (outline, real)
    ]
    if name == "adalora":  # what counts the ranks that are left is no parameter to train
        shapes = [{k: v for k, v in one.items() if "ranknum" not in k} for one in shapes]
    assert shapes[0] == shapes[1]
    tensors = [*outline.parameters(), *outline.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
