"""AdaLoRA's ranks as a run moves them: what is left, what is saved, and a run that is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from qvla.data.examples import read_examples
from qvla.methods.adalora_budget import SCORES, Budget
from qvla.models.adapters import load_adapter
from qvla.models.backbone import load_backbone
from qvla.tuning import attempt
from qvla.tuning.caption_trainer import CaptionTrainer
from qvla.tuning.methods import add_method
from qvla.tuning.training import train
from tests.support.adapted import logits, make_inputs
from tests.support.alone import load_alone
from tests.support.colours import batch_of, gradients, our_loss, plain_loss, recipe_for

SETTINGS = {"method": "adalora", "rank": 4, "lora_targets": ["q_proj", "down_proj"]}
SETTINGS |= {"max_steps": 8, "save_steps": 1, "eval_splits": [], "learning_rate": 1e-2}
SITES = 2 * 3


@pytest.fixture(scope="module")
def whole(
    tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> attempt.Outcome:
    output = tmp_path_factory.mktemp("adalora") / "out"
    return train(recipe_for(tiny_checkpoint, data, output, **SETTINGS))


def test_the_budget_is_what_is_left_and_what_serves(
    whole: attempt.Outcome, tiny_checkpoint: Path
) -> None:
    weights = load_file(whole.folder / "adapter_model.safetensors")
    ranks = [len(tensor) for name, tensor in weights.items() if name.endswith("lora_E")]
    assert len(ranks) == SITES and sum(ranks) == 4 * SITES < 6 * SITES
    assert len(set(ranks)) > 1  # they went where they matter, not everywhere alike
    assert whole.card["parameters"]["trained"] > sum(one.numel() for one in weights.values())
    bare = load_backbone(tiny_checkpoint, "fp32", device="cpu")
    batch = make_inputs(tiny_checkpoint, 2)
    served = logits(load_adapter(bare, whole.folder, "own").model, batch)
    alone = logits(load_alone(tiny_checkpoint, whole.folder), batch)
    torch.testing.assert_close(served, alone, rtol=0, atol=2e-5)
    assert (served - logits(bare.model, batch)).abs().max() > 1e-3


@pytest.mark.parametrize(  # while ranks are moved, and after
    "interrupted_at", [2, pytest.param(6, marks=pytest.mark.slow)]
)
def test_a_resumed_run_ends_with_the_ranks_and_weights_of_an_uninterrupted_one(
    interrupted_at: int,
    whole: attempt.Outcome,
    tiny_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    halves = recipe_for(tiny_checkpoint, data, tmp_path / "halves", **SETTINGS)
    compute_loss, interrupted = CaptionTrainer.compute_loss, False

    def watched(self: CaptionTrainer, *args: object, **kwargs: object) -> object:
        nonlocal interrupted
        if self.state.global_step == interrupted_at and not interrupted:
            interrupted = True
            raise InterruptedError("cut off")
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(CaptionTrainer, "compute_loss", watched)
    with pytest.raises(InterruptedError):
        train(halves)
    assert (halves.checkpoints / f"checkpoint-{interrupted_at}" / SCORES).is_file() is (
        interrupted_at < 4
    )
    train(halves, resume=True)
    found = load_file(halves.output / "adapter_model.safetensors")
    due = load_file(whole.folder / "adapter_model.safetensors")
    assert found.keys() == due.keys()
    for name, tensor in due.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


def test_matrices_are_drawn_to_be_orthogonal_as_by_pefts_own_loss(
    tiny_checkpoint: Path, data: Path
) -> None:
    backbone = load_backbone(tiny_checkpoint, "fp32", for_training=True)
    model = add_method(backbone, recipe_for(tiny_checkpoint, data, Path("out"), **SETTINGS))
    assert isinstance(model, PeftModel)
    batch = batch_of(tiny_checkpoint, read_examples(data))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_E" in name:  # zeros at the start, by which nothing else had a gradient
                parameter.normal_(0, 0.3)
    due = gradients(model, plain_loss(model.base_model, batch))  # to which PEFT adds its own
    ours = gradients(model, our_loss(model, batch))
    Budget(None).on_pre_optimizer_step(None, None, None, model=model)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, due[name], atol=2e-5, rtol=1e-3)
    assert any((due[name] - ours[name]).abs().max() > 1e-3 for name in due)
