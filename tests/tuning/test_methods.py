"""LoRA, QLoRA and full fine-tuning; a run's events; runs that are ended or run out of memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from qvla.captioning.lineup import Lineup
from qvla.data.examples import read_examples
from qvla.methods.recipe import TrainingError
from qvla.models.backbone import load_backbone
from qvla.tuning import events
from qvla.tuning.caption_trainer import CaptionTrainer
from qvla.tuning.methods import add_method
from qvla.tuning.training import train
from tests.support.alone import loaded
from tests.support.colours import batch_of, gradients, our_loss, plain_loss, recipe_for
from tests.support.waiting import PATIENCE, until


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_lora_learns_and_answers_in_its_pane(
    method: str, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "lora"
    card = train(
        recipe_for(
            *(tiny_checkpoint, data, output),
            **{"method": method, "rank": 4, "bf16": True, "learning_rate": 3e-2, "max_steps": 10},
        )
    ).card
    weights = load_file(output / "adapter_model.safetensors")
    assert weights and all("lora_" in name and "language_model" in name for name in weights)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in weights} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert card["parameters"]["trained"] == sum(weight.numel() for weight in weights.values())
    losses = [row["loss"] for row in card["curve"] if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]
    variant = "adapter" if method == "lora" else "qvla"
    place = {"adapter": output} if method == "lora" else {"nf4_adapter": output}
    assert Lineup.load(tiny_checkpoint, device="cpu", **place).variant(variant).available


def test_full_fine_tuning_trains_every_weight_and_saves_a_checkpoint(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "full"
    card = train(
        recipe_for(tiny_checkpoint, data, output, method="full", learning_rate=1e-3, max_steps=20)
    ).card
    before = loaded(tiny_checkpoint)
    after = load_backbone(output, "fp32", device="cpu").model
    changed = {
        name: not torch.equal(weight, dict(before.named_parameters())[name])
        for name, weight in after.named_parameters()
    }
    assert all(changed.values()), [name for name, moved in changed.items() if not moved]
    assert card["parameters"] == {
        "trained": sum(weight.numel() for weight in before.parameters()),
        "adapter_percent": 100.0,
    }
    batch = batch_of(tiny_checkpoint, read_examples(data, splits=["val"]))
    with torch.no_grad():
        assert plain_loss(after, batch) < 0.9 * plain_loss(before, batch)


def test_full_gradients_are_those_of_the_models_own_loss(tiny_checkpoint: Path, data: Path) -> None:
    backbone = load_backbone(tiny_checkpoint, "fp32", device="cpu", for_training=True)
    recipe = recipe_for(tiny_checkpoint, data, data / "none", method="full")
    model = add_method(backbone, recipe)
    batch = batch_of(tiny_checkpoint, read_examples(data, splits=["train"]))
    ours = gradients(model, our_loss(model, batch))
    due = gradients(model, plain_loss(model, batch))
    assert ours.keys() == due.keys() == dict(model.named_parameters()).keys()
    for name, gradient in due.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_run_tells_what_happens(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    recipe = recipe_for(
        *(tiny_checkpoint, data, tmp_path / "out"),
        **{"max_steps": 4, "eval_steps": 2, "save_steps": 2, "sample_photos": 2},
    )
    card = train(recipe).card
    rows, end = events.read(recipe.events)
    assert end == recipe.events.stat().st_size
    assert rows[0]["event"] == "start" and rows[0]["total_steps"] == 4
    assert rows[0]["trained_parameters"] == card["parameters"]["trained"]
    assert (rows[-1]["event"], rows[-1]["state"]) == ("end", "done")
    steps = events.by_step(rows, "step")
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert [row["loss"] for row in steps] == [row["loss"] for row in card["curve"] if "loss" in row]
    assert all(row["memory_bytes"] > 0 for row in steps)
    assert [row["step"] for row in events.by_step(rows, "checkpoint")] == [2, 4]
    evaluations = events.by_step(rows, "evaluation")
    assert [row["step"] for row in evaluations] == [2, 4]

    # Before its first step an adapter changes next to nothing, so captions begin as the base's.
    [before] = events.by_step(rows, "samples")
    assert before == rows[1] and before["step"] == 0

    # What it says at the end is what the written adapter says of the same photos.
    said = {one["image"]: one["caption"] for one in evaluations[-1]["samples"]}
    photos = [e for e in read_examples(data, splits=["val"]) if e.name in said]
    assert len(said) == len(photos) == 2
    from qvla.captioning.engine import caption
    from qvla.data.imagery import open_image

    lineup = Lineup.load(tiny_checkpoint, adapter=recipe.output, device="cpu")
    answers = caption(lineup, [open_image(photo.image) for photo in photos], ["adapter"])
    assert [said[photo.name] for photo in photos] == [a["adapter"].text for a in answers]
    bare = caption(lineup, [open_image(photo.image) for photo in photos], ["base"])
    said = {one["image"]: one["caption"] for one in before["samples"]}
    assert [said[photo.name].split()[:5] for photo in photos] == [
        a["base"].text.split()[:5] for a in bare
    ]


def test_events_are_read_from_where_one_left_off_and_torn_lines_are_passed_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.jsonl"
    assert events.read(path) == ([], 0)
    events.append(path, "step", step=1, loss=2.0)
    rows, position = events.read(path)
    assert [row["step"] for row in rows] == [1]
    with path.open("a") as file:
        file.write('{"event": "step", "st')  # a process was killed here
    assert events.read(path, position) == ([], position)
    events.append(path, "step", step=1, loss=1.5)
    events.append(path, "step", step=2, loss=1.0)
    more, _ = events.read(path, position)
    assert [row["loss"] for row in events.by_step(rows + more, "step")] == [1.5, 1.0]


@pytest.mark.slow
def test_memory_that_runs_out_halves_the_batch_once_and_changes_no_step(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = CaptionTrainer.compute_loss

    def short_of_memory(limit: int):
        def compute_loss(self, model, inputs, *rest, **options):
            if self.model.training and len(inputs["input_ids"]) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return own(self, model, inputs, *rest, **options)

        return compute_loss

    changes = {"max_steps": 3, "batch_size": 4, "eval_splits": []}
    train(recipe_for(tiny_checkpoint, data, tmp_path / "plenty", **changes))
    monkeypatch.setattr(CaptionTrainer, "compute_loss", short_of_memory(2))
    recipe = recipe_for(tiny_checkpoint, data, tmp_path / "short", **changes)
    train(recipe)
    rows, _ = events.read(recipe.events)
    [note] = [row["text"] for row in rows if row["event"] == "note"]
    assert "goes on with 2" in note
    due = load_file(tmp_path / "plenty" / "adapter_model.safetensors")
    for name, weight in load_file(recipe.output / "adapter_model.safetensors").items():
        torch.testing.assert_close(weight, due[name], rtol=1e-4, atol=1e-6)

    monkeypatch.setattr(CaptionTrainer, "compute_loss", short_of_memory(1))
    again = recipe_for(tiny_checkpoint, data, tmp_path / "shorter", **changes)
    with pytest.raises(TrainingError, match="of 4 and of half of it"):
        train(again)
    monkeypatch.setattr(CaptionTrainer, "compute_loss", short_of_memory(0))
    with pytest.raises(TrainingError, match="single photo"):
        train(recipe_for(tiny_checkpoint, data, tmp_path / "one", **changes | {"batch_size": 1}))


@pytest.mark.slow
def test_sigterm_ends_a_run_with_a_checkpoint_from_which_it_goes_on(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "qvla", "train", "--model", str(tiny_checkpoint)]
    command += ["--data", str(data), "--output", str(output), "--device", "cpu"]
    command += ["--max-steps", "100000", "--save-steps", "50000", "--log-steps", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "out.events.jsonl"

    def stepped() -> bool:
        assert process.poll() is None, process.communicate()
        return any(row["event"] == "step" for row in events.read(log)[0])

    until(stepped)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert "can be resumed" in told.strip().splitlines()[-1]
    [checkpoint] = (tmp_path / "out.checkpoints").glob("checkpoint-*")
    step = int(checkpoint.name.rpartition("-")[2])
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == step
    assert not output.exists()
    assert os.path.exists(checkpoint / "adapter_model.safetensors")


def test_an_adapter_of_each_method_is_a_peft_folder(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_checkpoint, data, tmp_path / "out", method="lora", max_steps=1)
    train(recipe)
    assert {path.name for path in recipe.output.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "run.json")
    }
    base = loaded(tiny_checkpoint)
    assert PeftModel.from_pretrained(base, recipe.output).peft_config["default"].r == recipe.rank
