"""Features of photos that every epoch would compute alike: computed once, and the run as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qvla.methods.recipe import Recipe
from qvla.models.backbone import load_backbone
from qvla.tuning import caption_trainer
from qvla.tuning.attempt import Outcome
from qvla.tuning.kept_features import are_kept
from qvla.tuning.methods import add_method
from qvla.tuning.training import train
from tests.support.colours import recipe_for

PHOTOS = 12
# Batches of 5: an epoch is 5, 5 and 2 photos. The dropout is the adapter's, whose draws must agree.
TWO_EPOCHS = {"max_steps": None, "epochs": 2, "batch_size": 5, "dropout": 0.2, "save_steps": 4}
TWO_EPOCHS |= {"eval_splits": []}
NOT_KEPT = {"cache_mb": 0}


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many photos went through the vision tower of a run, pass by pass."""
    counts: list[int] = []
    look = caption_trainer.image_features

    def counting(model: torch.nn.Module, pixels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        counts.append(len(pixels))
        return look(model, pixels, rows)

    monkeypatch.setattr(caption_trainer, "image_features", counting)
    return counts


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"bf16": True, "method": "qvla"}, marks=pytest.mark.slow),
        pytest.param({"objective": "cider", "samples": 2}, marks=pytest.mark.slow),
    ],
    ids=["adapter", "qvla", "cider"],
)
def test_a_run_is_the_one_that_looks_at_every_photo_in_every_epoch(
    changes: dict, tiny_checkpoint: Path, data: Path, tmp_path: Path, looked: list[int]
) -> None:
    given = TWO_EPOCHS | changes
    kept = train(recipe_for(tiny_checkpoint, data, tmp_path / "kept", **given))
    assert sum(looked) == PHOTOS
    looked.clear()
    anew = train(recipe_for(tiny_checkpoint, data, tmp_path / "anew", **given | NOT_KEPT))
    assert sum(looked) == 2 * PHOTOS
    assert (kept.card["features_kept"], anew.card["features_kept"]) == (True, False)
    assert_same_run(kept, anew)


def test_a_resumed_run_ends_as_an_uninterrupted_one(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(recipe_for(tiny_checkpoint, data, tmp_path / "whole", **TWO_EPOCHS))
    halves = recipe_for(tiny_checkpoint, data, tmp_path / "halves", **TWO_EPOCHS)
    loss = caption_trainer.caption_loss
    calls: list[int] = []

    def cut_off(*args: object) -> object:
        calls.append(0)
        if len(calls) == 5:  # within the second epoch
            raise InterruptedError
        return loss(*args)

    with monkeypatch.context() as cut:
        cut.setattr(caption_trainer, "caption_loss", cut_off)
        with pytest.raises(InterruptedError):
            train(halves)
    resumed = train(halves, resume=True)
    assert resumed.card["resumed_from_step"] == 4
    assert_same_run(whole, resumed)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"max_steps": 3, "batch_size": 4}, False),  # each photo once
        ({"max_steps": 3, "batch_size": 4, "gradient_accumulation": 2}, True),
        ({"epochs": 1}, False),
        ({"augment": "flips"}, False),
        ({"cache_mb": 0}, False),
        ({"towers": "both"}, False),
        ({"method": "lora", "projector": True}, False),
        ({"method": "lora"}, True),
        ({"method": "full", "precision": "fp32"}, False),
        ({"method": "full", "precision": "fp32", "unfreeze": ["0:head", "2:all"]}, False),
    ],
    ids=str,
)
def test_features_are_kept_where_they_stay_the_same_and_fit(
    changes: dict, expected: bool, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_checkpoint, data, tmp_path / "out", **TWO_EPOCHS | changes)
    assert are_kept(recipe, made(recipe), PHOTOS) is expected


def test_the_budget_is_that_of_the_features_themselves(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    # 4 tokens of 64 numbers in float32 are 1 KiB a photo.
    recipe = recipe_for(tiny_checkpoint, data, tmp_path / "out", **TWO_EPOCHS | {"cache_mb": 1})
    model = made(recipe)
    assert are_kept(recipe, model, 1024)
    assert not are_kept(recipe, model, 1025)


def test_a_tower_with_dropout_sees_anew_each_time(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_checkpoint, data, tmp_path / "out", **TWO_EPOCHS)
    model = made(recipe)
    model.get_base_model().model.vision_tower.encoder.layers[1].self_attn.dropout = 0.1
    assert not are_kept(recipe, model, PHOTOS)


def made(recipe: Recipe) -> torch.nn.Module:
    base = load_backbone(recipe.model, recipe.base_precision, device="cpu", for_training=True)
    return add_method(base, recipe)


def assert_same_run(one: Outcome, other: Outcome) -> None:
    losses: Callable[[Outcome], list[float]] = lambda run: [  # noqa: E731
        row.get("loss", row.get("eval_loss")) for row in run.card["curve"]
    ]
    assert losses(one) == pytest.approx(losses(other), rel=1e-5)
    expected = load_file(other.folder / "adapter_model.safetensors")
    found = load_file(one.folder / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5)
