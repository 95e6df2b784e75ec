"""What a run is foreseen to take, against what runs then took; and the command line of a recipe."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from qvla.cli.main import parse
from qvla.methods.command import command_line
from qvla.methods.flags import read_recipe
from qvla.methods.recipe import Recipe, make_recipe
from qvla.tuning.forecast import count_parameters, forecast, speed_of
from qvla.tuning.training import train
from tests.support.serving import write_risc_folder

ROWS = [("UCM", "val" if n > 4 else "train", f"{n}.png", ["a river", "a road"]) for n in range(7)]


@pytest.fixture
def recipe(tiny_checkpoint: Path, tmp_path: Path) -> Recipe:
    data = write_risc_folder(tmp_path / "risc", ROWS)
    return make_recipe(
        model=str(tiny_checkpoint),
        data=data,
        output=tmp_path / "out",
        device="cpu",
        bf16=False,
        batch_size=2,
        sample_photos=0,
    )


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"method": "adapter", "train_norms": True, "layers": [1]}, id="adapter"),
        pytest.param(
            {"method": "qlora", "rank": 3, "lora_targets": ["q_proj", "down_proj"]},
            id="qlora",
            marks=pytest.mark.slow,
        ),
        pytest.param({"method": "full"}, id="full"),
    ],
)
def test_parameters_steps_and_speed_are_those_of_the_run(
    recipe: Recipe, values: dict[str, object]
) -> None:
    recipe = make_recipe(**{**recipe.model_dump(), "learning_rate": None, **values})
    found = forecast(recipe)
    assert found.speed is None and found.seconds is None
    card = train(recipe).card
    assert found.trained == card["parameters"]["trained"]
    assert round(found.percent, 4) == card["parameters"]["adapter_percent"]
    assert (found.photos, found.steps) == (card["data"]["photos"], card["steps"]) == (5, 3)
    written = json.loads((recipe.output / "run.json").read_text(encoding="utf-8"))
    speed = speed_of(recipe, [written], [])
    assert speed.images_per_second == card["images_per_second"]
    assert forecast(recipe, speed).seconds == pytest.approx(5 / card["images_per_second"])
    other = make_recipe(**{**recipe.model_dump(), "method": "lora"})
    assert speed_of(other, [written], []) is None


@pytest.mark.parametrize(
    ("changes", "counts"),
    [({"epochs": 3}, True), ({}, False), ({"epochs": 3, "augment": "flips"}, False)],
    ids=str,
)
def test_a_run_that_looked_once_tells_no_speed_of_one_that_looks_in_every_epoch(
    recipe: Recipe, changes: dict[str, object], counts: bool
) -> None:
    asked = recipe.model_copy(update=changes)
    card = {"recipe": asked.card(), "features_kept": True, "images_per_second": 9.0}
    assert (speed_of(asked, [card], []) is not None) is counts


def test_data_yet_to_be_fetched_is_not_counted(recipe: Recipe) -> None:
    found = forecast(recipe.model_copy(update={"data": Path("owner/photos")}))
    assert (found.photos, found.steps, found.seconds) == (None, None, None)
    assert count_parameters(recipe) == (found.trained, found.base)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"method": "qlora", "rank": 4, "learning_rate": 1.23456789e-4},
        {"method": "full", "gradient_checkpointing": False, "bf16": False, "eval_splits": []},
        {"layers": [0, 2], "sites": ["mlp"], "train_norms": True, "prefix": "it's; rm -rf $HOME"},
        {"splits": ["train", "test"], "sources": ["UCM"], "max_steps": 7, "epochs": 2.5},
    ],
    ids=str,
)
def test_the_command_line_says_the_same_recipe(values: dict[str, object], tmp_path: Path) -> None:
    recipe = make_recipe(**{"model": "some/model", "data": "a b", "output": tmp_path, **values})
    words = shlex.split(command_line(recipe))
    assert words[:4] == ["python", "-m", "qvla", "train"]
    assert read_recipe(parse(words[3:])) == recipe
