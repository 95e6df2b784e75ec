"""Learning rates by part, and gradual unfreezing: told from the weights that moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qvla.methods.recipe import Recipe, TrainingError
from qvla.models.backbone import load_backbone
from qvla.tuning.caption_trainer import CaptionTrainer
from qvla.tuning.training import train
from tests.support.colours import recipe_for

Weights = dict[str, torch.Tensor]
# 12 photos in batches of 4 are three steps an epoch.
STAGES = {"epochs": 3, "max_steps": None, "unfreeze": ["0:head", "1:top2", "2:all"]}
STAGES |= {"method": "full", "learning_rate": 1e-3, "eval_splits": [], "lr_scheduler": "cosine"}


def part(name: str) -> str:
    parts = {"vision_tower": "vision", "multi_modal_projector": "projector"}
    return next((own for key, own in parts.items() if f".{key}." in name), "language")


def test_each_part_moves_by_its_own_rate(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    rates = {"language": 1e-3, "vision": 4e-4, "projector": 2e-3}
    train(
        recipe_for(
            *(tiny_checkpoint, data, tmp_path / "out"),
            **{"method": "full", "max_steps": 1, "batch_size": 12, "eval_splits": []},
            **{"lr_scheduler": "constant", "warmup_steps": 0, "weight_decay": 0.0},
            **{"learning_rate": rates["language"], "vision_learning_rate": rates["vision"]},
            projector_learning_rate=rates["projector"],
        )
    )
    before = dict(load_backbone(tiny_checkpoint, "fp32", device="cpu").model.named_parameters())
    after = dict(load_backbone(tmp_path / "out", "fp32", device="cpu").model.named_parameters())
    seen = set()
    for name, weight in after.items():
        # AdamW's first step is rate * g / (|g| + 1e-8): the rate itself where g is not tiny.
        moved = (weight - before[name]).abs().max().item()
        if "k_proj.bias" in name:
            continue  # a shift of all keys alike changes no attention, so its gradient is noise
        assert moved == pytest.approx(rates[part(name)], rel=0.02), name
        seen.add(part(name))
    assert seen == rates.keys()


def watched(
    monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None
) -> Callable[[], dict[int, Weights]]:
    """The weights at the beginning of each step; the run is cut off at the step `stop_at`."""
    compute_loss, seen = CaptionTrainer.compute_loss, {}

    def compute(self: CaptionTrainer, model: torch.nn.Module, *args: object, **kw: object):
        step = self.state.global_step
        if step == stop_at:
            raise InterruptedError("cut off")
        seen.setdefault(step, {name: p.detach().clone() for name, p in model.named_parameters()})
        return compute_loss(self, model, *args, **kw)

    monkeypatch.setattr(CaptionTrainer, "compute_loss", compute)
    return lambda: seen


def moved(before: Weights, after: Weights) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_full_fine_tuning_trains_from_the_output_down(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(monkeypatch)
    train(recipe_for(tiny_checkpoint, data, tmp_path / "out", **STAGES))
    steps = seen()
    assert steps.keys() == set(range(9))
    decoder = "model.language_model"
    head = {f"{decoder}.embed_tokens.weight", f"{decoder}.norm.weight"}  # the head is tied to it
    top = {
        name
        for name in steps[0]
        if name.startswith((f"{decoder}.layers.1.", f"{decoder}.layers.2."))
    }
    assert moved(steps[0], steps[3]) == head
    assert moved(steps[3], steps[6]) == head | top
    assert moved(steps[6], steps[8]) == set(steps[0])


def test_an_adapters_layers_are_trained_from_the_top_over_accumulated_batches(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(monkeypatch)
    changes = {"method": "lora", "rank": 2, "batch_size": 2, "gradient_accumulation": 2}
    changes |= {"epochs": 2, "max_steps": None, "eval_splits": []}
    recipe = recipe_for(
        *(tiny_checkpoint, data, tmp_path / "out"), **changes, unfreeze=["0:top1", "0.5:top2"]
    )
    train(recipe)
    steps = seen()
    assert steps.keys() == set(range(6))

    def layers(first: int, last: int) -> set[str]:
        names = moved(steps[first], steps[last])
        assert all("lora_" in name for name in names)
        return {name.split(".layers.")[1][0] for name in names}

    assert layers(0, 2) == {"2"}  # half an epoch of three steps begins at the second of them
    assert layers(2, 5) == {"1", "2"}
    weights = load_file(recipe.output / "adapter_model.safetensors")
    assert {name.split(".layers.")[1][0] for name in weights} == {"0", "1", "2"}


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Weights:
    output = tmp_path_factory.mktemp("whole") / "out"
    train(recipe_for(tiny_checkpoint, data, output, **STAGES))
    return load_file(output / "model.safetensors")


@pytest.mark.parametrize(  # in the first stage, at an edge, in the last
    "cut_off_at",
    [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(7, marks=pytest.mark.slow)],
)
def test_a_run_resumed_in_any_stage_ends_with_the_same_weights(
    cut_off_at: int,
    uninterrupted: Weights,
    tiny_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipe_for(tiny_checkpoint, data, tmp_path / "out", **STAGES, save_steps=1)
    with monkeypatch.context() as patch:
        watched(patch, stop_at=cut_off_at)
        with pytest.raises(InterruptedError):
            train(recipe)
    with pytest.raises(TrainingError, match="unfreeze"):
        train(recipe.model_copy(update={"unfreeze": None}), resume=True)
    card = train(recipe, resume=True).card
    assert card["resumed_from_step"] == cut_off_at
    found = load_file(recipe.output / "model.safetensors")
    assert found.keys() == uninterrupted.keys()
    assert moved(found, uninterrupted) == set()


def test_rates_and_stages_that_cannot_be_are_refused(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qvla.tuning.attempt.load_base", None)  # nothing comes so far

    def refused(sentence: str, **changes: object) -> None:
        with pytest.raises(TrainingError, match=sentence) as told:
            recipe: Recipe = recipe_for(tiny_checkpoint, data, tmp_path / "out", **changes)
            train(recipe)
        assert "\n" not in str(told.value)

    lora = {"method": "lora"}
    refused("nothing in the vision tower.*--vision-learning", **lora, vision_learning_rate=1e-4)
    refused("nothing in the projector", **lora, projector_learning_rate=1e-4)
    refused("gradients of all its weights", method="adalora", unfreeze=["0:top1", "1:all"])
    refused("begins at epoch 0", **lora, unfreeze=["1:all"])
    refused("begins at epoch 0", **lora, unfreeze=[])
    refused("not 'adapters'", **lora, unfreeze=["adapters"])
    refused("not '1:top0'", **lora, unfreeze=["0:top1", "1:top0"])
    refused("1:top1 cannot follow 0:top2", **lora, unfreeze=["0:top2", "1:top1"])
    refused("0:all cannot follow 0:top1", **lora, unfreeze=["0:top1", "0:all"])
    refused("0:head.* trains 3 layers here and nothing above", **lora, unfreeze=["0:head"])
    refused("1:all .*would train nothing more", **lora, unfreeze=["0:top3", "1:all"])


def test_a_stage_that_never_begins_is_refused(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    changes = {"method": "lora", "max_steps": 3, "unfreeze": ["0:top1", "1:all"]}
    with pytest.raises(TrainingError, match="has 3 steps and an epoch has 3, so the stage 1:all"):
        train(recipe_for(tiny_checkpoint, data, tmp_path / "out", **changes))
