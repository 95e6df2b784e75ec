"""Explorations against the model that is really made: PEFT on weights, and the files it saves."""

from __future__ import annotations

import copy
import json
import shlex
from itertools import product
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText

from qvla.cli.main import parse
from qvla.errors import QvlaError
from qvla.methods.flags import read_recipe
from qvla.methods.method import TrainingError
from qvla.methods.registry import KINDS, METHODS
from qvla.models.architectures import PALIGEMMA2_3B, PALIGEMMA_3B
from qvla.models.backbone import load_backbone
from qvla.models.families import family_of
from qvla.planning.comparison import COLUMNS, Refused, as_row, compare
from qvla.planning.explorer import Exploration, ExploreError, explore, find_kind
from qvla.planning.planner import plan
from qvla.planning.sites import WHOLE
from qvla.tuning.methods import add_method, save
from tests.support.placements import placements_of

# Of each method one placement, and those of LoRA all: the others go by the same code.
CASES = [
    pytest.param(name, given, marks=[pytest.mark.slow] if number and name != "lora" else [])
    for name, one in METHODS.items()
    for number, given in enumerate(placements_of(one)[1:] or [{}])
]


@pytest.fixture(scope="module")
def base(tiny_checkpoint: Path) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)


def real(base: torch.nn.Module, found: Exploration) -> torch.nn.Module:
    """The same adapter on real weights, put there by hand from the command line."""
    recipe = read_recipe(parse(shlex.split(found.command)[3:]))
    config = METHODS[found.method].config(recipe, family_of(base.config).places(base.config))
    own = copy.deepcopy(base)
    return own if config is None else get_peft_model(own, config)


@pytest.mark.parametrize(("method", "given"), CASES)
def test_counts_and_sites_are_those_of_the_injected_model(
    method: str, given: dict, base: torch.nn.Module, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    found = explore(tiny_checkpoint, method, precision="fp32", **given)
    model = real(base, found)
    if isinstance(model, PeftModel):
        assert (found.trainable_params, found.total_params) == model.get_nb_trainable_parameters()
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    assert found.trainable_params == sum(one.numel() for _, one in named)
    assert sum(site.parameters for site in found.sites) == found.trainable_params
    stored = [tuple(one.shape) for _, one in named]
    assert sorted(stored) == sorted(shape for site in found.sites for shape in site.added.values())
    bare = dict(base.named_modules())
    for site in found.sites:
        module = bare[site.name]
        sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        assert (site.inputs, site.outputs) == sizes, site.name
    lit = {
        f"{layer}.{row}".removesuffix(f".{WHOLE}")
        for tower in found.towers
        for layer, row in tower.lit
    }
    inside = [site for site in found.sites if site.layer is not None]
    assert lit == {site.name.rpartition(".layers.")[2] for site in inside}
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    [file] = tmp_path.glob("*.safetensors")
    assert found.adapter_bytes == file.stat().st_size


def trained(model: torch.nn.Module) -> int:
    """Trained parameters, without AdaLoRA's counters of ranks: on a bfloat16 base PEFT lets them
    pass for trained, though no gradient reaches them.
    """
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    return sum(one.numel() for name, one in named if "ranknum" not in name)


# The quantised kinds differ in the base alone, which one of them shows.
FAST = ("adapter", "qlora", "dora", "full")
RUN = [
    pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow])
    for name, one in KINDS.items()
    if not one.quantised or name == "qlora"
]


@pytest.mark.parametrize("kind", RUN)
def test_the_code_and_the_command_make_the_same_model(
    kind: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = explore(tiny_checkpoint, kind, **placements_of(KINDS[kind].method)[:2][-1])
    made: dict[str, object] = {}
    exec(compile(found.code, "code", "exec"), made)
    assert trained(made["model"]) == found.trainable_params
    said = capsys.readouterr().out
    assert "trainable params" in said or not KINDS[kind].method.is_adapter
    recipe = read_recipe(parse(shlex.split(found.command)[3:]))
    assert recipe.kind is KINDS[kind]
    backbone = load_backbone(
        tiny_checkpoint, recipe.base_precision, device="cpu", for_training=True
    )
    model = add_method(backbone, recipe)
    assert trained(model) == found.trainable_params
    save(model, backbone.processor, recipe, tmp_path)
    [file] = tmp_path.glob("*.safetensors")
    assert found.adapter_bytes == file.stat().st_size  # of a bfloat16 or NF4 base too


def test_sizes_of_the_full_models_follow_from_plain_formulas() -> None:
    hidden, wide, keys, layers = 2304, 9216, 1024, 26
    queries = 2048
    sides = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + wide)
    found = explore(PALIGEMMA2_3B, "lora", rank=8)
    assert found.trainable_params == 8 * layers * sides
    # as a listing of google/paligemma2-3b-mix-224 has it; KerasHub's 3,032,094,960 lack the 64 rows
    # that Transformers pads the vocabulary with
    assert found.base_params == 3_032_242_416 == 3_032_094_960 + 64 * hidden
    assert found.percent == pytest.approx(100 * found.trainable_params / found.total_params)
    assert len(found.sites) == 7 * layers
    bottleneck = explore(PALIGEMMA_3B, "bottleneck", width=128)
    assert (bottleneck.base_params, bottleneck.trainable_params) == (2_923_466_480, 18_952_704)


def test_operations_are_those_of_the_products_that_are_added(tiny_checkpoint: Path) -> None:
    """Two for each weight of a product, and one a number that is scaled or added."""
    lora = explore(tiny_checkpoint, "lora", rank=4)
    assert lora.token_operations == sum(
        2 * 4 * (site.inputs + site.outputs) + 2 * site.outputs for site in lora.sites
    )
    own = explore(tiny_checkpoint, "bottleneck", reduction_factor=8)
    hidden = AutoConfig.from_pretrained(tiny_checkpoint).text_config.hidden_size
    assert own.token_operations == len(own.sites) * (2 * 2 * hidden * (hidden // 8) + hidden)
    assert explore(tiny_checkpoint, "full").token_operations == 0
    assert lora.photo_operations == 0


def test_memory_is_the_planners(tiny_checkpoint: Path) -> None:
    found = explore(tiny_checkpoint, "qlora", rank=4)
    due = {"method": "lora", "rank": 4, "variant": "qvla"}
    assert found.serve_bytes == plan(tiny_checkpoint, task="captioning", batch_size=1, **due).total
    due |= {"gradient_checkpointing": True}
    assert found.train_bytes == plan(tiny_checkpoint, task="training", batch_size=4, **due).total
    assert found.precision == "nf4"
    assert explore(tiny_checkpoint, "lora", precision="fp32").train_bytes > found.train_bytes


def test_a_comparison_has_a_row_for_every_method_and_says_what_cannot_be(
    tiny_checkpoint: Path,
) -> None:
    rows = compare(tiny_checkpoint, precision="nf4", rank=4, layers=[0])
    assert [row.method for row in rows] == list(METHODS)
    refused = {row.method: row.reason for row in rows if isinstance(row, Refused)}
    assert refused.keys() == {name for name, one in METHODS.items() if not one.on_nf4}
    assert "NF4" in refused["full"] and "gradients" in refused["full"]
    lora = next(row for row in rows if row.method == "lora")
    assert lora == explore(tiny_checkpoint, "lora", precision="nf4", rank=4, layers=[0])
    shown = dict(zip(COLUMNS, as_row(lora), strict=True))
    assert shown["trainable_params"] == lora.trainable_params and shown["reason"] == ""
    assert len(json.dumps(lora.as_json())) > 100
    with pytest.raises(QvlaError, match="Built in"):
        compare("owner/not-there")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"method": "prompts"}, "no method 'prompts': choose one of bottleneck, lora"),
        (
            {"method": "bottleneck", "rank": 4},
            "Bottleneck adapter has no setting called rank: it has .*reduction_factor",
        ),
        ({"method": "bottleneck", "width": 48}, "cannot be 48 wide: .* hidden size, 64"),
        ({"method": "lora", "width": 8}, "LoRA has no width"),
        ({"method": "full", "precision": "nf4"}, "Full fine-tuning does not work on an NF4 base"),
        ({"method": "lora", "rank": 0}, "rank cannot be 0"),
        ({"method": "lora", "layers": [3]}, "layers 0 to 2"),
        ({"method": "lora", "precision": "fp8"}, "precision cannot be 'fp8'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    asked: dict, told: str, tiny_checkpoint: Path
) -> None:
    with pytest.raises((ExploreError, TrainingError), match=told):
        explore(tiny_checkpoint, **asked)


def test_a_kind_is_found_by_its_method_and_precision() -> None:
    for name, kind in KINDS.items():
        assert find_kind(name) is kind or name in METHODS
        assert find_kind(kind.method.name, "nf4" if kind.quantised else None) is kind
    assert find_kind("lora", "nf4") is KINDS["qlora"]
    assert find_kind("qlora", "bf16") is KINDS["lora"]
    assert not [pair for pair in product(KINDS, (None, "fp32")) if not find_kind(*pair)]
