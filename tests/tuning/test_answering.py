"""BLIP trained for questions, merged and held in NF4: its answers against PEFT's own."""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvla.captioning.desk import greedy
from qvla.captioning.prompts import prompt_of
from qvla.data.risc import Example
from qvla.methods.flags import add_arguments, read_recipe
from qvla.methods.recipe import Recipe, TrainingError, make_recipe
from qvla.models.backbone import load_backbone
from qvla.tuning.merging import merge
from qvla.tuning.training import train
from tests.support.tiny_answers import (
    LENGTH,
    alone,
    answer_alone,
    build_tiny_blip,
    build_tiny_vilt,
)

COLOURS = {(0, 130, 0): "green trees", (40, 80, 200): "the sea", (250, 250, 250): "a road"}
QUESTION = "what is in the photo ?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Two questions about each of six photos of three colours."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    found = []
    for number in range(6):
        colour, answer = list(COLOURS.items())[number % 3]
        pixels = np.clip(np.array(colour) + draw.normal(0, 10, (40, 40, 3)), 0, 255)
        path = folder / f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        sea = "yes" if answer == "the sea" else "no"
        for question, said in ((QUESTION, answer), ("is there a sea ?", sea)):
            found.append(Example(path, "MADE", "train", (said,), question=question))
    return found


def recipe_for(checkpoint: Path, output: Path, **changes: object) -> Recipe:
    settings = {
        "method": "lora",
        "lora_targets": ["query", "key", "value"],
        "learning_rate": 1e-2,
        "max_steps": 14,
        "warmup_steps": 2,
        "log_steps": 1,
        "device": "cpu",
        "bf16": False,
        "eval_splits": [],
        "sample_photos": 0,
    }
    data = checkpoint  # the rows are given
    return make_recipe(model=str(checkpoint), data=data, output=output, **settings | changes)


@pytest.fixture(scope="module")
def trained(
    checkpoint: Path, rows: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, float]]]:
    recipe = recipe_for(
        checkpoint, tmp_path_factory.mktemp("run") / "out", warmup_share=0.3, batch_size=6
    )
    card = train(recipe, rows).card
    return recipe.output, [row for row in card["curve"] if "loss" in row]


def test_a_run_learns_and_warms_up_for_the_longer_of_steps_and_share(trained) -> None:
    _, curve = trained
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]
    rates = [row["learning_rate"] for row in curve]
    # 0.3 of 14 steps are 5 of warm-up, not the 2 that the recipe also names
    assert rates[:6] == pytest.approx([1e-2 * step / 5 for step in range(6)])
    assert all(after < before for before, after in pairwise(rates[5:]))


def test_the_adapter_and_what_it_is_merged_into_answer_as_peft_does(
    checkpoint: Path, rows: list[Example], trained, tmp_path: Path
) -> None:
    adapter, _ = trained
    beside, photos = alone(checkpoint, adapter), [Image.open(row.image) for row in rows[:4]]
    due = [
        answer_alone(checkpoint, beside, photo, row.question)
        for photo, row in zip(photos, rows, strict=False)
    ]
    merged = merge(str(checkpoint), str(adapter), tmp_path / "out", device="cpu")
    assert merged.proof.holds and merged.proof.adapter_moves > 0.1 and not merged.head_untied
    written = load_backbone(tmp_path / "out", "fp32", device="cpu")
    prompts = [prompt_of(row.question) for row in rows[:4]]
    assert greedy(written, written.model, photos, prompts, LENGTH) == due
    theirs = alone(tmp_path / "out")
    assert [answer_alone(checkpoint, theirs, *one) for one in _asked(rows[:4])] == due


def test_nf4_weights_that_were_saved_answer_as_before(
    checkpoint: Path, rows: list[Example], tmp_path: Path
) -> None:
    first = load_backbone(checkpoint, "nf4", device="cpu")
    photos = [photo for photo, _ in _asked(rows[:4])]
    prompts = [prompt_of(row.question) for row in rows[:4]]
    due = greedy(first, first.model, photos, prompts, LENGTH)
    first.model.save_pretrained(tmp_path)
    first.processor.save_pretrained(tmp_path)
    again = load_backbone(tmp_path, "nf4", device="cpu")
    assert greedy(again, again.model, photos, prompts, LENGTH) == due


def test_it_trains_on_nf4_with_recomputed_activations_and_merges_into_what_that_stood_for(
    checkpoint: Path, rows: list[Example], tmp_path: Path
) -> None:
    recipe = recipe_for(
        checkpoint, tmp_path / "out", method="qlora", gradient_checkpointing=True, bf16=True
    )
    losses = [row["loss"] for row in train(recipe, rows).card["curve"] if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]
    into = {"dequantise": True, "device": "cpu"}
    assert merge(str(checkpoint), str(recipe.output), tmp_path / "merged", **into).proof.holds


def test_the_shipped_recipe_is_the_one_that_was_reported(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    folders = ["--data", str(tmp_path), "--output", str(tmp_path / "out")]
    recipe = read_recipe(parser.parse_args(["--config", "blip-vqa", *folders]))
    assert (recipe.model, recipe.method) == ("Salesforce/blip-vqa-base", "qlora")
    assert (recipe.rank, recipe.lora_alpha, recipe.dropout) == (16, 32, 0.05)
    assert recipe.lora_targets == ["query", "key", "value"]
    assert (recipe.epochs, recipe.learning_rate, recipe.weight_decay) == (3, 5e-5, 0.01)
    assert (recipe.batch_size, recipe.eval_batch_size) == (8, 16)
    assert (recipe.warmup_steps, recipe.warmup_share) == (100, 0.1)
    assert recipe.gradient_checkpointing and recipe.bf16 and recipe.base_precision == "nf4"
    flags = ["--config", "blip-vqa", *folders, "--epochs", "1"]
    assert read_recipe(parser.parse_args(flags)).epochs == 1


def test_what_these_families_cannot_be_trained_with_is_refused_in_a_sentence(
    checkpoint: Path, rows: list[Example], tmp_path: Path
) -> None:
    def refused(sentence: str, model: Path, **changes: object) -> None:
        with pytest.raises(Exception, match=sentence) as raised:
            train(recipe_for(model, tmp_path / "out", **changes), rows)
        told = str(raised.value)
        assert told.endswith(".") and "\n" not in told

    refused("has no projection 'q_proj' for LoRA", checkpoint, lora_targets=["q_proj"])
    refused("no projector to go around", checkpoint, projector=True)
    for method in ("adapter", "prefix", "crossmodal"):
        refused("has no language decoder beside a vision tower", checkpoint, method=method)
    vilt = build_tiny_vilt(tmp_path / "vilt")
    with pytest.raises(TrainingError, match="ViLT is not trained here, because it picks one"):
        train(recipe_for(vilt, tmp_path / "out"), rows)


def _asked(rows: list[Example]) -> list[tuple[Image.Image, str]]:
    return [(Image.open(row.image).convert("RGB"), row.question) for row in rows]
