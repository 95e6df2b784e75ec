from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import GemmaConfig, PaliGemmaConfig, SiglipVisionConfig

from qvla.bench import training, training_run
from qvla.bench.random_weights import write_checkpoint
from qvla.cli import main as cli
from qvla.data.examples import read_examples
from qvla.errors import QvlaError
from qvla.methods.recipe import make_recipe
from qvla.records import store as records
from qvla.records.measure import Meter
from qvla.settings import load_settings
from tests.support.alone import photos
from tests.support.tiny import WORDS

try:
    Meter(torch.device("cpu"))
except OSError:
    pytest.skip("the CPU's memory is told only by Linux", allow_module_level=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of noise, more than one split, captions of two lengths."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "resized").mkdir()
    rows = ["source,split,image,caption_1"]
    for index, photo in enumerate(photos(16)):
        photo.save(folder / "resized" / f"{index}.png")
        caption = " ".join(WORDS[: 8 + 4 * (index % 2)])
        rows.append(f"here,{'train' if index % 2 else 'val'},{index}.png,{caption}")
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose training takes much more than the process around it."""
    text = GemmaConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=3072,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
    )
    vision = SiglipVisionConfig(
        image_size=112,
        patch_size=14,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=512,
        vision_use_head=False,
    )
    config = PaliGemmaConfig(
        text_config=text, vision_config=vision, image_token_id=7000, projection_dim=512
    )
    folder = tmp_path_factory.mktemp("medium")
    config.save_pretrained(folder)
    return Path(write_checkpoint(str(folder), folder)["model"])


@pytest.mark.slow
def test_the_suite_from_the_command_line(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "--suite": "training",
        "--model": tiny_checkpoint,
        "--variant": "base,adapter",
        "--data": data,
        "--records": tmp_path / "records",
        "--device": "cpu",
        "--memory-repeats": 1,
        "--train-batch": 3,
        "--train-steps": 1,
    }
    assert (
        cli.main(["bench", *(str(word) for pair in given.items() for word in pair), "--json"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    [record] = records.read_all(tmp_path / "records")
    assert printed == record.model_dump(mode="json")
    assert (record.what, record.variants) == ("bench/training", ("adapter",))
    assert record.data.items == 16
    assert record.protocol["recipes"]["adapter"]["base_precision"] == "bf16"

    own = {
        name.removeprefix("adapter/"): value
        for name, value in record.numbers.items()
        if name.startswith("adapter/")
    }
    assert own["speed_ratio"] == pytest.approx(
        own["images_per_second"] / own["plain_images_per_second"]
    )
    assert own["speed_ratio_again"] == pytest.approx(
        own["images_per_second_again"] / own["plain_images_per_second_again"]
    )
    assert own["memory_ratio"] == pytest.approx(
        own["activation_bytes"] / own["plain_activation_bytes"]
    )
    assert own["memory_ratio"] < 0.8  # logits of all positions take more than those of a caption
    assert own["planned_activation_bytes"] == pytest.approx(own["activation_bytes"], rel=0.3)
    assert own["peak_bytes"] > own["held_bytes"] > 0
    assert own["step_seconds"] * own["images_per_second"] == pytest.approx(3)
    seconds, sizes = (record.series[f"adapter/training_{what}"] for what in ("seconds", "bytes"))
    assert len(seconds) == len(sizes) > 1
    assert list(seconds) == sorted(seconds)
    assert max(sizes) <= 1.1 * own["peak_bytes"]
    text = training.table(record)
    assert f"{own['images_per_second']:.2f}" in text and f"{own['memory_ratio']:.2f}" in text


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="this processor has no fast bfloat16: the step would take minutes",
)
def test_training_peaks_as_planned(medium: Path, data: Path) -> None:
    """Of the whole process, within 20 %, where what it trains outweighs the process itself."""
    plan = training.Plan(data, batch_size=16, steps=1)
    settings = load_settings(model=str(medium), device="cpu")
    measured = training.train(plan, settings, "adapter", "product")
    outcome, planned = measured.outcome, measured.planned
    assert planned.weights + planned.activations > 1.5 * planned.overhead
    assert outcome.peak == pytest.approx(planned.process, rel=0.2)
    assert outcome.activations == pytest.approx(measured.planned_activations, rel=0.2)
    assert outcome.images == 16


def test_the_plain_way_is_the_reports(
    tiny_checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row brings its own photo, at every step, and gets the logits of all its positions."""
    from transformers import PaliGemmaForConditionalGeneration

    calls = []
    forward = PaliGemmaForConditionalGeneration.forward

    def watched(model: torch.nn.Module, **given: object) -> object:
        output = forward(model, **given)
        calls.append((given["pixel_values"].shape[0], given["input_ids"].shape, output.logits))
        return output

    monkeypatch.setattr(PaliGemmaForConditionalGeneration, "forward", watched)
    job = training_run.Job("plain", "adapter", str(tiny_checkpoint), str(data), "cpu", "bf16", 4, 1)
    recipe = make_recipe(
        model=str(tiny_checkpoint),
        data=data,
        output=data / "none",
        batch_size=4,
        max_steps=job.all_steps,
        device="cpu",
    )
    examples = read_examples(data)
    examples[1::2] = examples[::2]  # a photo may come twice in a step
    watch = training_run.Watch(job, torch.device("cpu"))
    training_run.train_plainly(recipe, examples, watch)
    assert len(calls) == job.all_steps
    for photos_given, shape, logits in calls:
        assert photos_given == shape[0] == 4
        assert logits.shape[:2] == shape
    outcome = watch.finished()
    assert outcome.images == outcome.images_again == 4
    assert len(outcome.seconds) == len(outcome.seconds_again) == 1
    assert outcome.timed_shape[0] == max(shape[1] for _, shape, _ in calls[:4])


def test_copies_make_up_for_photos_that_are_too_few(data: Path, tmp_path: Path) -> None:
    few = read_examples(data)[:3]
    many = training_run.as_many(few, 8, tmp_path)
    assert many[:3] == few
    assert len({one.image for one in many}) == 8
    for place, one in enumerate(many):
        assert one.image.read_bytes() == few[place % 3].image.read_bytes()
        assert one.references == few[place % 3].references
    assert training_run.as_many(few, 2, tmp_path) == few


def test_too_few_photos_for_a_batch_are_refused(tiny_checkpoint: Path, data: Path) -> None:
    job = training_run.Job(
        "plain", "adapter", str(tiny_checkpoint), str(data), "cpu", "bf16", 17, 1
    )
    with pytest.raises(QvlaError, match="fewer usable photos than a batch of 17"):
        training_run.measure(job)


def test_only_adapters_are_trained(tiny_checkpoint: Path, data: Path) -> None:
    given = ["--suite", "training", "--variant", "base", "--model", str(tiny_checkpoint)]
    assert cli.main(["bench", *given, "--data", str(data)]) == 2


@pytest.mark.parametrize("field", ["repeats", "batch_size", "steps"])
def test_counts_below_one_are_refused(field: str) -> None:
    with pytest.raises(QvlaError, match="must be at least 1"):
        training.Plan(Path("."), **{field: 0})
