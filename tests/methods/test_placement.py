"""Where recipes put adapters: written out by hand for a small and a published depth."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from qvla.methods import placement
from qvla.methods.command import command_line
from qvla.methods.flags import add_arguments, read_recipe
from qvla.methods.method import TrainingError
from qvla.methods.placement import adapted_rank, chosen, language_layers, vision_layers
from qvla.methods.places import Places
from qvla.methods.recipe import Recipe, make_recipe
from qvla.methods.registry import METHODS
from qvla.models.architectures import PALIGEMMA_3B
from qvla.models.families import built_in, family_of
from qvla.tuning.forecast import count_parameters


@pytest.fixture(scope="module")
def places() -> Places:
    config = built_in()[PALIGEMMA_3B]()  # 27 layers of vision, 18 of language
    return family_of(config).places(config)


def recipe(method: str = "lora", **given: Any) -> Recipe:
    return make_recipe(method=method, model=PALIGEMMA_3B, data="data", output="output", **given)


@pytest.mark.parametrize(
    ("choice", "of_five", "of_one"),
    [
        ("all", [0, 1, 2, 3, 4], [0]),
        ("top", [2, 3, 4], [0]),
        ("bottom", [0, 1], [0]),
        ("sparse", [0, 2, 4], [0]),
    ],
)
def test_choices_of_layers(choice: Any, of_five: list[int], of_one: list[int]) -> None:
    assert chosen(choice, 5) == of_five and chosen(choice, 1) == of_one


@pytest.mark.parametrize(
    ("given", "language", "vision"),
    [
        ({}, range(18), ()),
        ({"towers": "vision"}, (), range(27)),
        ({"towers": "both", "placement": "top"}, range(9, 18), range(13, 27)),
        (
            {"towers": "both", "placement": "all", "vision_placement": "bottom"},
            range(18),
            range(13),
        ),
        (
            {"towers": "both", "layers": [17, 0, 0], "vision_placement": "sparse"},
            (0, 17),
            range(0, 27, 2),
        ),
        # The page's lists are of 6 and 12 layers: [4, 5] and all; every second; all and [10, 11].
        ({"preset": "captioning"}, range(18), range(18, 27)),
        ({"preset": "vqa"}, range(0, 18, 2), range(0, 27, 2)),
        ({"preset": "grounding"}, range(15, 18), range(27)),
        ({"preset": "grounding", "vision_layers": [1]}, range(15, 18), (1,)),
    ],
    ids=str,
)
def test_layers_of_both_towers(given: dict, language: Any, vision: Any, places: Places) -> None:
    asked = recipe(**given)
    assert language_layers(asked, places) == list(language)
    assert vision_layers(asked, places) == list(vision)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"layers": [18]}, "decoder layers 0 to 17, so the recipe cannot name layer 18"),
        ({"towers": "both", "vision_layers": [-1]}, "vision tower layers 0 to 26.* layer -1"),
        ({"layers": []}, "list of layers of the decoder is empty"),
        ({"vision_layers": [0]}, "names vision_layers but leaves the vision tower out"),
        ({"towers": "vision", "layers": [0]}, "names layers but leaves the decoder out"),
        ({"lora_targets": ["out_proj"]}, "decoder has no projection 'out_proj' for LoRA: choose"),
        ({"towers": "vision", "vision_targets": ["o_proj"]}, "vision tower has no .* k_proj, out_"),
        ({"rank_pattern": ["q_proj"]}, "written NAME=RANK, such as q_proj=8"),
        ({"rank_pattern": ["q_proj=0"]}, "written NAME=RANK"),
        ({"rank_pattern": ["(=4"]}, "is no pattern of names"),
        ({"method": "ia3", "layers": [99]}, "cannot name layer 99"),
        ({"method": "adapter", "layers": [99]}, "cannot name layer 99"),
        ({"method": "oft", "block_size": 13}, "block size of 13 .* 2048 .* a divisor"),
    ],
    ids=str,
)
def test_what_is_no_place_is_one_sentence(given: dict, sentence: str, places: Places) -> None:
    asked = recipe(**given)
    with pytest.raises(TrainingError, match=sentence):
        asked.kind.method.config(asked, places)


def test_presets_bring_their_ranks_unless_one_is_given() -> None:
    ranks = {task: recipe(preset=task).rank for task in placement.PRESETS}
    assert ranks == {"captioning": 16, "vqa": 24, "grounding": 32}
    assert recipe(preset="vqa", rank=4).rank == 4


def test_ranks_by_layer_are_those_of_the_page() -> None:
    # Its rule for 12 layers: 8 before a quarter of the depth, 32 before three, then 16.
    assert [adapted_rank(layer, 12) for layer in range(12)] == [8] * 3 + [32] * 6 + [16] * 3
    hidden, by_layer = 2048, [8] * 5 + [32] * 9 + [16] * 4
    asked = recipe(adaptive_rank=True, lora_targets=["q_proj"], rank=4)
    assert count_parameters(asked)[0] == 2 * hidden * sum(by_layer)
    named = recipe(rank_pattern=["v_proj=2"], lora_targets=["q_proj", "v_proj"], rank=4)
    assert count_parameters(named)[0] == 18 * (4 * 2 * hidden + 2 * (hidden + 256))


def test_a_vision_placement_counts_what_the_sizes_say() -> None:
    hidden, wide = 1152, 4304
    asked = recipe("lora", towers="vision", vision_layers=[0, 26], rank=8)
    assert count_parameters(asked)[0] == 2 * 8 * (4 * 2 * hidden + 2 * (hidden + wide))
    bottleneck = recipe("adapter", towers="vision", vision_layers=[3], reduction_factor=16)
    width = hidden // 16
    assert count_parameters(bottleneck)[0] == 2 * (2 * hidden * width + width + hidden)
    scaled = recipe("ia3", towers="vision", vision_layers=[0])
    assert count_parameters(scaled)[0] == 2 * hidden + wide
    projector = recipe("lora", layers=[0], lora_targets=["q_proj"], projector=True, rank=2)
    assert count_parameters(projector)[0] == 2 * (2048 + 2048) + 2 * (hidden + 2048)


def test_a_recipe_of_before_and_its_shell_command_mean_the_same(tmp_path: Path) -> None:
    old = {"method": "lora", "model": PALIGEMMA_3B, "data": "data", "output": "output"}
    old |= {"rank": 16, "layers": [0, 2], "lora_targets": ["q_proj"], "learning_rate": 2e-4}
    asked = make_recipe(**old)
    config = built_in()[PALIGEMMA_3B]()
    adapter = METHODS["lora"].config(asked, family_of(config).places(config))
    # What an adapter that such a recipe made has in its file, which a run may start from.
    within = r"\.(?:0|2)\.(?:self_attn|mlp)\.(?:q_proj)"
    assert adapter.target_modules == r".*model\.language_model\.layers" + within
    everywhere = METHODS["lora"].config(recipe(), family_of(config).places(config)).target_modules
    assert everywhere.startswith(r".*model\.language_model\.layers\.(?:\d+)\.(?:self_attn|mlp)\.")
    placed = recipe("dora", towers="both", preset="vqa", rank_pattern=["q_proj=8"], projector=True)
    words = command_line(placed)
    assert "--preset vqa" in words and "--rank-pattern q_proj=8" in words and "--projector" in words
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    again = read_recipe(parser.parse_args(shlex.split(words)[4:]))
    assert again.model_dump() == placed.model_dump()
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(old | {"towers": "both", "vision_layers": [1]}))
    assert make_recipe(**yaml.safe_load(file.read_text())).vision_layers == [1]
