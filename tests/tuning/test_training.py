from __future__ import annotations

import itertools
import json
import random
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from qvla.captioning.prompts import CAPTION_PREFIX, IGNORED, encode_images, encode_text
from qvla.data.examples import read_examples
from qvla.data.risc import Example, fingerprint
from qvla.errors import QvlaError
from qvla.methods.recipe import TrainingError
from qvla.models import nf4
from qvla.tuning import attempt
from qvla.tuning.caption_trainer import CaptionTrainer, image_features
from qvla.tuning.methods import add_method
from qvla.tuning.training import main, train
from qvla.tuning.training_data import CaptionedPhotos, Collator, EpochSampler, view
from tests.support.alone import loaded
from tests.support.colours import (
    adapted,
    batch_of,
    gradients,
    our_loss,
    plain_loss,
    recipe_for,
    write_table,
)


@pytest.mark.parametrize("method", ["adapter", "qvla"])
def test_a_run_learns_and_writes_the_adapter_alone(
    method: str, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "adapter"
    changes = {"method": method, "bf16": True, "augment": "crops", "learning_rate": 3e-2}
    changes["max_steps"] = 18
    recipe = recipe_for(tiny_checkpoint, data, output, **changes)
    card = train(recipe).card

    assert {path.name for path in output.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "run.json")
    }
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "adapter.events.jsonl"}
    weights = load_file(output / "adapter_model.safetensors")
    assert weights and all("bottleneck_" in name for name in weights)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert card["parameters"]["trained"] == sum(weight.numel() for weight in weights.values())
    assert card == json.loads((output / "run.json").read_text())
    assert str(tmp_path) not in (output / "run.json").read_text()
    assert str(tiny_checkpoint) not in (output / "adapter_config.json").read_text()
    losses = [row["loss"] for row in card["curve"] if "loss" in row]
    assert len(losses) == 18 and losses[-1] < 0.85 * losses[0]

    batch = batch_of(tiny_checkpoint, read_examples(data, splits=["val"]))
    base = loaded(tiny_checkpoint)
    with torch.no_grad():
        before = plain_loss(base, batch)
        after = plain_loss(PeftModel.from_pretrained(base, output), batch)
    assert after < 0.85 * before
    evaluations = [row["eval_loss"] for row in card["curve"] if "eval_loss" in row]
    assert evaluations[-1] == pytest.approx(after.item(), rel=0.05)  # bf16 and NF4 against float32


def test_loss_and_gradients_are_those_of_the_models_own_loss(
    tiny_checkpoint: Path, data: Path
) -> None:
    model = adapted(tiny_checkpoint, data).train()
    batch = batch_of(tiny_checkpoint, read_examples(data))
    assert (batch["labels"] != IGNORED).sum(1).unique().numel() > 1  # captions of several lengths
    ours, plain = our_loss(model, batch), plain_loss(model, batch)
    assert ours.item() == pytest.approx(plain.item(), abs=1e-5)

    expected, found = gradients(model, plain), gradients(model, our_loss(model, batch))
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert "bottleneck_" in name
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)


def test_a_photo_twice_in_a_batch_is_seen_once(tiny_checkpoint: Path, data: Path) -> None:
    model = adapted(tiny_checkpoint, data)
    first, second = read_examples(data)[:2]
    again = Example(first.image, "MADE", "train", ("the beach .",))
    batch = batch_of(tiny_checkpoint, [first, second, again])
    seen = []
    tower = model.get_base_model().model.vision_tower
    tower.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    features = image_features(model, batch["pixel_values"], batch["photo_rows"])
    assert seen == [2]
    assert torch.equal(features[0], features[2]) and not torch.equal(features[0], features[1])
    assert our_loss(model, batch).item() == pytest.approx(plain_loss(model, batch).item(), abs=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_through_nf4_are_those_of_the_dequantised_weights(
    checkpointing: bool, tiny_checkpoint: Path, data: Path
) -> None:
    batch = batch_of(tiny_checkpoint, read_examples(data))
    model = adapted(tiny_checkpoint, data, "nf4")
    with torch.no_grad():  # an evaluation before training, which packs a careless model's layers
        our_loss(model.eval(), batch)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    found = gradients(model.train(), our_loss(model, batch))

    reference = adapted(tiny_checkpoint, data)
    plain = dict(reference.named_modules())
    with torch.no_grad():
        for name, layer in nf4.layers(model):
            plain[name].weight.copy_(nf4.dequantised(layer))
    expected = gradients(reference, plain_loss(reference.train(), batch))
    assert found.keys() == expected.keys()
    for name, gradient in found.items():  # bfloat16 against float32
        similarity = torch.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0)
        assert similarity > 0.99, name


def test_recomputing_activations_leaves_the_gradients_through_nf4_as_they_are(
    tiny_checkpoint: Path, data: Path
) -> None:
    batch = batch_of(tiny_checkpoint, read_examples(data))
    found = []
    for recomputed, passes in ((False, 1), (True, 2)):
        model = adapted(tiny_checkpoint, data, "nf4", dropout=0.2, train_norms=True)
        if recomputed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        seen: list[None] = []
        layer = model.get_base_model().model.language_model.layers[1].mlp
        layer.register_forward_pre_hook(lambda *_, seen=seen: seen.append(None))
        torch.manual_seed(1)  # of the dropout
        found.append(gradients(model.train(), our_loss(model, batch)))
        assert len(seen) == passes
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


def test_accumulated_batches_weigh_every_token_alike(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    weights = []
    for batch_size, accumulation in ((6, 1), (2, 3)):
        output = tmp_path / str(batch_size)
        changes = {"batch_size": batch_size, "gradient_accumulation": accumulation, "max_steps": 3}
        train(recipe_for(tiny_checkpoint, data, output, eval_splits=[], **changes))
        weights.append(load_file(output / "adapter_model.safetensors"))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=2e-5, rtol=1e-3)


IN_TEN_STEPS = {"max_steps": 10, "save_steps": 1, "dropout": 0.2, "lr_scheduler": "cosine"}
IN_TEN_STEPS |= {"augment": "crops", "batch_size": 4, "eval_steps": 3}


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> attempt.Outcome:
    output = tmp_path_factory.mktemp("whole") / "out"
    return train(recipe_for(tiny_checkpoint, data, output, **IN_TEN_STEPS))


@pytest.mark.parametrize(  # just after an epoch's end, and within one
    "interrupted_at", [pytest.param(6, marks=pytest.mark.slow), 7]
)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    interrupted_at: int,
    uninterrupted: attempt.Outcome,
    tiny_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    halves = recipe_for(tiny_checkpoint, data, tmp_path / "halves", **IN_TEN_STEPS)
    compute_loss = CaptionTrainer.compute_loss

    steps: list[int] = []

    def watched(self: CaptionTrainer, model: PeftModel, *args: object, **kwargs: object) -> object:
        if model.training:
            if self.state.global_step == interrupted_at and 0 in steps:
                raise InterruptedError("cut off")
            steps.append(self.state.global_step)
        return compute_loss(self, model, *args, **kwargs)

    monkeypatch.setattr(CaptionTrainer, "compute_loss", watched)
    with pytest.raises(InterruptedError):
        train(halves)
    assert not halves.output.exists()
    with pytest.raises(TrainingError, match="--resume"):
        train(halves)
    with pytest.raises(TrainingError, match="learning_rate"):
        train(halves.model_copy(update={"learning_rate": 1.0}), resume=True)
    half_written = halves.checkpoints / "checkpoint-99"
    half_written.mkdir()
    (half_written / "trainer_state.json").write_text('{"global_step": 9')

    steps.clear()
    resumed = train(halves, resume=True)
    assert steps == list(range(interrupted_at, 10))
    assert resumed.card["resumed_from_step"] == interrupted_at
    assert resumed.card["steps"] == 10
    assert not halves.checkpoints.exists()
    rates = [
        [row.get("learning_rate") for row in o.card["curve"]] for o in (uninterrupted, resumed)
    ]
    assert rates[0] == rates[1]
    found = load_file(halves.output / "adapter_model.safetensors")
    for name, weight in load_file(uninterrupted.folder / "adapter_model.safetensors").items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5)


def test_captions_are_drawn_anew_each_epoch_and_depend_on_the_seed_alone(
    tiny_checkpoint: Path, data: Path
) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    examples = read_examples(data)

    def drawn(seed: int, epoch: int, workers: int = 0) -> list[tuple[str, bytes]]:
        photos = CaptionedPhotos(examples, processor, seed=seed, augment="crops")
        photos.set_epoch(epoch)
        loader = DataLoader(
            photos, 3, sampler=EpochSampler(photos), collate_fn=list, num_workers=workers
        )
        return [(item.caption, item.pixels.tobytes()) for batch in loader for item in batch]

    assert drawn(0, 1) == drawn(0, 1, workers=2)
    assert drawn(0, 1) != drawn(1, 1)
    photos = CaptionedPhotos(examples, processor, seed=0)
    per_epoch = [[photos.caption(row, epoch) for row in range(20)] for epoch in range(12)]
    assert all(first != second for first, second in itertools.pairwise(per_epoch))
    for row, example in enumerate(examples):
        assert {captions[row] for captions in per_epoch} == set(example.references)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_pixel_values_are_those_of_the_photo(
    cache_bytes: int, tiny_checkpoint: Path, data: Path
) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    examples = read_examples(data)
    photos = CaptionedPhotos(examples, processor, seed=0, cache_bytes=cache_bytes)
    batch = Collator(processor, CAPTION_PREFIX)([photos[row] for row in range(20)])
    originals = [Image.open(example.image).convert("RGB") for example in examples]
    assert torch.equal(batch["pixel_values"], encode_images(processor, originals))


def test_flips_are_the_eight_of_the_square() -> None:
    square = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    seen = {view(square, "flips", random.Random(seed)).tobytes() for seed in range(200)}
    turned = [np.rot90(side, turns) for side in (square, square[:, ::-1]) for turns in range(4)]
    assert seen == {array.tobytes() for array in turned} and len(seen) == 8
    assert view(square, "none", random.Random(0)) is square


def test_words_outside_the_vocabulary_carry_no_label(tiny_checkpoint: Path, data: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    example = Example(read_examples(data)[0].image, "MADE", "train", ("a zebra in trees",))
    batch = batch_of(tiny_checkpoint, [example])
    plain = encode_text(processor, [CAPTION_PREFIX], ["a zebra in trees"])
    unknown = plain["labels"] == processor.tokenizer.unk_token_id
    assert unknown.sum() == 1
    assert torch.equal(batch["input_ids"], plain["input_ids"])
    assert torch.equal(batch["labels"], plain["labels"].masked_fill(unknown, IGNORED))


def test_a_question_is_its_rows_prompt(tiny_checkpoint: Path, data: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    image = read_examples(data)[0].image
    asked = Example(image, "MADE", "train", ("trees",), name="1", question="river near the beach")
    plain = Example(image, "MADE", "train", ("many trees",))
    batch = batch_of(tiny_checkpoint, [asked, plain])
    prompts = ["answer en river near the beach", CAPTION_PREFIX]
    own = encode_text(processor, prompts, ["trees", "many trees"])
    assert torch.equal(batch["input_ids"], own["input_ids"])
    assert len(batch["pixel_values"]) == 1
    assert fingerprint([asked]) != fingerprint([replace(asked, question="river")])


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    what: str,
    tiny_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {"learning_rate": 1e35 if what == "loss" else 1e-3, "save_steps": 1}
    recipe = recipe_for(tiny_checkpoint, data, tmp_path / "out", **changes, eval_splits=[])
    steps = []

    def overflowing(gradient: torch.Tensor) -> torch.Tensor:
        steps.append(None)
        return gradient * (float("inf") if len(steps) == 3 else 1)

    def adapter_that_overflows(*args: object) -> PeftModel:
        model = add_method(*args)
        next(p for p in model.parameters() if p.requires_grad).register_hook(overflowing)
        return model

    if what == "gradient":
        monkeypatch.setattr(attempt, "add_method", adapter_that_overflows)
    with pytest.raises(TrainingError, match=f"The {what} stopped being a finite number at step 3"):
        train(recipe)
    assert not recipe.output.exists()
    kept = sorted(recipe.checkpoints.glob("checkpoint-*/adapter_model.safetensors"))
    assert [file.parent.name for file in kept] == ["checkpoint-1", "checkpoint-2"]
    for file in kept:
        assert all(torch.isfinite(weight).all() for weight in load_file(file).values())


def test_what_cannot_work_is_refused_before_the_weights_are_loaded(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tmp_path / "no-weights"  # reaching the weights would fail with another sentence
    shutil.copytree(tiny_checkpoint, absent, ignore=shutil.ignore_patterns("*.safetensors"))

    def refused(sentence: str, *, of: Path = data, output: str = "out", **changes: object) -> None:
        settings = {"model": str(absent), **changes}
        with pytest.raises(QvlaError, match=sentence) as caught:
            train(recipe_for(settings.pop("model"), of, tmp_path / output, **settings))
        assert "\n" not in str(caught.value)

    refused("split 'test'", splits=["train", "test"])
    refused("split 'test'", eval_splits=["test"])
    refused("of ELSEWHERE", sources=["ELSEWHERE"])
    refused("optimiser", optimiser="paged_adamw_8bit")
    refused("will not fit", batch_size=10**9)
    refused("layers 0 to 2", layers=[1, 3])
    refused("no projection 'query'", method="lora", lora_targets=["q_proj", "query"])
    with monkeypatch.context() as full_disk:
        full_disk.setattr(shutil, "disk_usage", lambda folder: namedtuple("_", "free")(1000))
        refused("of disk")

    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "text.jpg").write_text("not an image")
    write_table(bare, [["A", "train", "text.jpg", "a road"], ["A", "train", "gone.jpg", "a road"]])
    refused("No row is usable", of=bare, eval_splits=[])
    Image.new("RGB", (8, 8)).save(bare / "photo.png")
    write_table(bare, [["A", "train", "photo.png"]])
    refused("No photo of bare has a caption", of=bare, eval_splits=[])
    write_table(bare, [["A", "train", "photo.png", "a road", "a <eos> road"]])
    refused("photo.png: <eos>.*take them out", of=bare, eval_splits=[])

    (tmp_path / "file").write_text("in the way")
    refused("cannot be written", output="file/out")
    (tmp_path / "taken").mkdir()
    refused("there already", output="taken")
    with pytest.raises(TrainingError, match="holds no earlier run"):
        train(recipe_for(absent, data, tmp_path / "taken"), overwrite=True)
    with pytest.raises(TrainingError, match="no whole checkpoint"):
        train(recipe_for(absent, data, tmp_path / "out"), resume=True)
    with pytest.raises(TrainingError, match="method"):
        recipe_for(absent, data, tmp_path / "out", method="prefix-tuning")
    assert not (tmp_path / "out.events.jsonl").exists()


def test_the_command_line_reads_a_file_and_flags_win(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {tiny_checkpoint}\ndata: {data}\noutput: {tmp_path / 'out'}\n"
        "max_steps: 5\nreduction_factor: 8\ndevice: cpu\nsample_photos: 0\n"
    )
    arguments = ["--config", str(config), "--max-steps", "2", "--no-bf16", "--layers", "0", "2"]
    assert main(arguments) == 0
    card = json.loads((tmp_path / "out" / "run.json").read_text())
    assert card["steps"] == 2 and card["recipe"]["bf16"] is False
    assert (card["recipe"]["reduction_factor"], card["recipe"]["layers"]) == (8, [0, 2])
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert not [name for name in weights if ".layers.1." in name]

    capsys.readouterr()
    assert main(arguments) == 1
    assert capsys.readouterr().err.strip().endswith("add --overwrite to replace it.")
    assert main([*arguments, "--overwrite"]) == 0
    assert main(["--model", "x", "--data", "y", "--output", "z", "--batch-size", "0"]) == 1
    assert "batch_size" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{" * 1000, "- " * 1000, "a: [1", "\0"])
def test_a_file_of_settings_that_is_none_is_one_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert main(["--config", str(tmp_path / "run.yaml")]) == 1
    said = capsys.readouterr().err
    assert "run.yaml is not a readable YAML file." in said and said.count("\n") == 1
