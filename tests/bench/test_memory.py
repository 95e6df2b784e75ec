from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from qvla.bench import memory_suite
from qvla.bench.memory import in_own_process
from qvla.cli import main as cli
from qvla.errors import QvlaError
from qvla.models.backbone import load_backbone
from qvla.models.footprint import census
from qvla.planning import planner
from qvla.records import store as records
from qvla.records.measure import Meter
from qvla.settings import load_settings
from tests.support.alone import Weights, make_weights, photos

try:
    import torch

    Meter(torch.device("cpu"))
except OSError:
    pytest.skip("the CPU's memory is told only by Linux", allow_module_level=True)


@pytest.fixture(scope="module")
def weights(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return make_weights(tiny_checkpoint, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "resized").mkdir()
    rows = ["source,split,image,caption_1"]
    for index, photo in enumerate(photos(3)):
        photo.save(folder / "resized" / f"{index}.png")
        rows.append(f"here,val,{index}.png,many green trees")
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def options(weights: Weights, data: Path, kept: Path, **more: object) -> list[str]:
    given = {
        "--model": weights.model,
        "--adapter": weights.adapter,
        "--nf4-adapter": weights.other_nf4_adapter,
        "--data": data,
        "--records": kept,
        "--device": "cpu",
        "--memory-repeats": 1,
        "--new-tokens": 3,
        "--train-batch": 2,
        **more,
    }
    return ["bench", "--suite", "memory", *(str(word) for pair in given.items() for word in pair)]


@pytest.mark.slow
def test_the_suite_from_the_command_line(
    weights: Weights, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(weights, data, tmp_path / "records", **{"--variant": "base,qvla"})
    assert cli.main([*asked, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    [record] = records.read_all(tmp_path / "records")
    assert printed == record.model_dump(mode="json")
    assert (record.what, record.variants) == ("bench/memory", ("base", "qvla"))
    assert record.data.fingerprint == records.fingerprint([data / "resized" / "0.png"])

    numbers = record.numbers
    base = census(load_backbone(weights.model, "fp32", device="cpu").model)
    assert numbers["base/weights_bytes"] == base.total_bytes
    assert numbers["base/planned_weights_bytes"] == base.total_bytes
    for part, size in base.part_bytes.items():
        assert numbers[f"base/parts/{part}_bytes"] == size
    assert numbers["base/dtypes/float32_bytes"] == base.total_bytes
    for variant in ("base", "qvla"):
        own = {
            name.removeprefix(f"{variant}/"): value
            for name, value in numbers.items()
            if name.startswith(f"{variant}/")
        }
        for kind in ("parts", "dtypes"):
            sizes = [value for name, value in own.items() if name.startswith(f"{kind}/")]
            assert sum(sizes) == own["weights_bytes"]
        assert own["planned_weights_bytes"] == pytest.approx(own["weights_bytes"], rel=0.1)
        assert own["weights_bytes"] <= own["loaded_bytes"] <= own["loading_peak_bytes"]
        assert own["captioning_peak_bytes"] >= own["weights_bytes"]
        assert own["planned_captioning_peak_bytes"] > own["planned_weights_bytes"]
    assert "base/training_peak_bytes" not in numbers
    assert numbers["qvla/training_peak_bytes"] > numbers["qvla/training_held_bytes"] > 0
    assert (
        numbers["qvla/planned_training_peak_bytes"] > numbers["qvla/training_activation_bytes"] > 0
    )
    text = memory_suite.table(record)
    assert f"{numbers['qvla/training_peak_bytes'] / 1e6:,.1f}" in text
    assert f"({base.total_bytes / 1e6:,.1f})" in text


@pytest.mark.slow
def test_parts_can_be_left_out(
    weights: Weights, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory_suite.chosen_parts(None) == ("loading", "captioning", "training")
    assert memory_suite.chosen_parts("training, loading") == ("loading", "training")
    for wrong in ("", "all"):
        with pytest.raises(QvlaError, match="--parts takes some of loading, captioning, training"):
            memory_suite.chosen_parts(wrong)
    settings = load_settings(
        model=str(weights.model), adapter=None, nf4_adapter=None, device="cpu", precision="bf16"
    )
    given = Namespace(
        data=data, parts="loading", memory_repeats=1, new_tokens=3, train_batch=2, variant=None
    )
    text, record = memory_suite.run(given, settings)
    assert record.variants == ("base",)  # the others have no adapter
    assert record.protocol["parts"] == ["loading"]
    assert "base/loaded_bytes" in record.numbers
    assert "base/captioning_peak_bytes" not in record.numbers
    assert "training" not in text and "caption" not in text
    due = planner.plan(weights.model, "base", task="captioning", precision="bf16").weights
    assert record.numbers["base/weights_bytes"] == due


def test_what_fails_in_its_own_process_is_told(data: Path) -> None:
    with pytest.raises(QvlaError, match=r"The work could not be measured: .*not enough values"):
        in_own_process("qvla.bench.memory_variant", "base", what="The work")


@pytest.mark.parametrize("field", ["repeats", "new_tokens", "train_batch"])
def test_counts_below_one_are_refused(field: str) -> None:
    with pytest.raises(QvlaError, match="must be at least 1"):
        memory_suite.Plan(Path("."), **{field: 0})
