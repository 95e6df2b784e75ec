"""Sweeps on a tiny model: what a file means, what is recorded, and going on after a cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from qvla.bench import sweep as sweeps
from qvla.bench.sweep_config import SweepError, expand, read_sweep
from qvla.bench.sweep_results import WHAT
from qvla.cli.main import main
from qvla.methods.method import TrainingError
from qvla.methods.registry import KINDS, METHODS
from qvla.records import store as records
from qvla.settings import ASSETS, child_environment
from qvla.tuning import attempt
from qvla.tuning.checkpoints import checkpoints_in
from tests.support.colours import write_colours

COMMON = {
    "max_steps": 2,
    "batch_size": 2,
    "device": "cpu",
    "bf16": False,
    "save_steps": 1,
    "log_steps": 1,
    "cache_mb": 0,
}
EVALUATION = {"split": "val", "photos": 3, "resamples": 20, "max_new_tokens": 4, "base": False}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("colours"))


def write_config(folder: Path, runs: object, **more: object) -> Path:
    content = {"common": COMMON, "evaluation": EVALUATION, "runs": runs, **more}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def command(config: Path, model: Path, data: Path, folder: Path, *more: str) -> list[str]:
    given = {"config": config, "model": model, "data": data}
    given |= {"out": folder / "out", "records": folder / "records"}
    return [
        "sweep",
        *(word for name, at in given.items() for word in (f"--{name}", str(at))),
        *more,
    ]


def test_every_value_of_a_grid_meets_every_other() -> None:
    grid = {"method": ["lora", "adapter"], "rank": [4, 8], "layers": [0, 1], "seed": 3}
    assert [(one["method"], one["rank"], one["layers"], one["seed"]) for one in expand(grid)] == [
        ("lora", 4, [0, 1], 3),
        ("lora", 8, [0, 1], 3),
        ("adapter", 4, [0, 1], 3),
        ("adapter", 8, [0, 1], 3),
    ]
    assert [one["layers"] for one in expand({"layers": [[0], [1, 2], None]})] == [[0], [1, 2], None]


def test_all_methods_are_those_of_the_registry_on_a_float_base() -> None:
    named = [one["method"] for one in expand({"method": "all"})]
    assert named == [name for name, kind in KINDS.items() if not kind.quantised]


def test_runs_are_told_apart_and_those_that_are_the_same_are_one(
    tmp_path: Path, colours: Path
) -> None:
    runs = [
        {"method": ["lora", "adapter"], "seed": [0, 1]},
        {"method": "lora", "rank": [8, 16]},  # rank 16 is LoRA's default
    ]
    config = write_config(tmp_path, runs)
    defaults = {"model": "some/model", "data": colours}
    sweep = read_sweep(config, tmp_path / "out", defaults)
    assert [run.label for run in sweep.runs] == [
        "lora, rank 16, seed 0",
        "adapter, seed 0",
        "lora, rank 8, seed 0",
        "lora, rank 16, seed 1",
        "adapter, seed 1",
    ]
    outputs = [run.recipe.output for run in sweep.runs]
    assert len(set(outputs)) == 5
    elsewhere = read_sweep(config, tmp_path / "elsewhere", defaults)
    assert [run.key for run in elsewhere.runs] == [run.key for run in sweep.runs]


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        ("[1, 2", SweepError, "is not a readable YAML file"),
        ("runs: lora", SweepError, "must hold a list `runs`"),
        ("runs: []", SweepError, "names no runs"),
        ("runs: [lora]", SweepError, "run 1 must be `name: value` lines"),
        ("{runs: [], grid: {}}", SweepError, "has grid"),
        ("{runs: [{method: lora}], evaluation: {photos: 0}}", SweepError, "evaluation's photos"),
        ("runs: [{method: lora, output: here}]", SweepError, "cannot name output"),
        ("runs: [{method: magic}]", TrainingError, "method cannot be 'magic'"),
        ("runs: [{method: lora, rang: 4}]", TrainingError, "no setting called rang"),
    ],
)
def test_a_bad_file_meets_a_sentence(
    tmp_path: Path, content: str, error: type[Exception], sentence: str
) -> None:
    (tmp_path / "bad.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(error, match=sentence):
        read_sweep(tmp_path / "bad.yaml", tmp_path, {"model": "some/model", "data": tmp_path})


def test_a_sweep_goes_on_after_a_cut_and_records_what_fails(
    tmp_path: Path,
    tiny_checkpoint: Path,
    colours: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [
        {"method": "lora", "rank": 4},
        {"method": "lora", "rank": 2, "layers": [7]},  # the model has three
        {"method": "adapter", "reduction_factor": 4},
    ]
    config = write_config(tmp_path, runs, evaluation={**EVALUATION, "base": True})
    asked = command(config, tiny_checkpoint, colours, tmp_path, "--json")

    # Cut off in the last run, after its first step was saved: as a kill would, with no farewell.
    publish = attempt.publish
    published: list[Path] = []

    def cut(save: object, recipe: object, card: object) -> None:
        if recipe.method == "adapter" and not published:
            last = checkpoints_in(recipe.checkpoints)[0]
            published.append(last)
            raise KeyboardInterrupt
        publish(save, recipe, card)

    monkeypatch.setattr(attempt, "publish", cut)
    assert main(asked) == 130
    assert len(records.find(WHAT, [tmp_path / "records"])) == 3
    capsys.readouterr()

    asked_for: list[str] = []
    train = sweeps.train

    def watched(recipe: object, **options: object) -> object:
        asked_for.append(recipe.method)
        assert options["resume"]
        return train(recipe, **options)

    monkeypatch.setattr(sweeps, "train", watched)
    assert main(asked) == 1  # one failed
    assert asked_for == ["adapter"]  # and the others were not done again
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["done", "done", "failed", "done"]
    assert "layer 7" in rows[2]["why"]

    base = records.read(rows[0]["record"])
    assert (base.variants, base.numbers["trained_parameters"]) == (("base",), 0)
    assert base.items == 3
    first = records.read(rows[1]["record"])
    weights = next((tmp_path / "out").glob("lora-*/adapter_model.safetensors"))
    with safe_open(weights, "pt") as stored:
        trained = sum(stored.get_tensor(name).numel() for name in stored.keys())  # noqa: SIM118
    assert first.numbers["trained_parameters"] == trained
    assert first.numbers["saved_bytes"] == weights.stat().st_size
    assert first.numbers["train_steps"] == 2
    assert first.numbers["CIDEr/low"] <= first.numbers["CIDEr"] <= first.numbers["CIDEr/high"]
    assert first.number("train_seconds") > 0
    assert first.number("train_processor_seconds") > 0
    assert first.items == 3
    assert first.protocol["recipe"]["rank"] == 4
    assert len(first.series["training/loss"]) == 2
    resumed = records.read(rows[3]["record"])
    assert resumed.numbers["train_processor_seconds"] is None  # a part of it was lost
    assert resumed.numbers["trained_parameters"] > 0

    # A third time there is nothing to do; with --retry-failed the failed one alone is tried.
    monkeypatch.setattr(sweeps, "_record", lambda *_: pytest.fail("it was done before"))
    assert main(asked) == 1
    assert json.loads(capsys.readouterr().out) == rows
    monkeypatch.undo()
    assert main([*asked, "--retry-failed"]) == 1
    again = json.loads(capsys.readouterr().out)
    assert [row["record"] == old["record"] for row, old in zip(again, rows, strict=True)] == [
        True,
        True,
        False,
        True,
    ]


def test_the_shipped_sweep_has_every_method_and_what_the_explorer_plots() -> None:
    file = ASSETS / "sweeps" / "methods.yaml"
    sweep = read_sweep(file, Path("out"), {"model": "some/model", "data": Path("data")})
    assert not sweep.runs[0].trains
    trained = [run.recipe for run in sweep.runs if run.trains]
    assert {recipe.kind.method for recipe in trained} == set(METHODS.values())
    assert len({(one.max_steps, one.batch_size, one.gradient_accumulation) for one in trained}) == 1
    for seed in range(3):
        own = [one for one in trained if one.seed == seed]
        plain = [one for one in own if one.towers == "language" and one.placement == "all"]
        assert {one.rank for one in plain if one.method == "lora"} == {4, 8, 16, 32, 64}
        widths = {256 // one.reduction_factor for one in plain if one.method == "adapter"}
        assert widths >= {4, 8, 16, 32, 64}
        placed = {(one.towers, one.placement) for one in own if one.method == "lora"}
        assert len(placed) == 5


def test_two_at_once_in_one_folder_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, colours: Path
) -> None:
    config = write_config(tmp_path, [{"method": "lora"}])
    sweep = read_sweep(config, tmp_path, {"model": str(tiny_checkpoint), "data": colours})
    with (
        sweeps._held(tmp_path / "out"),
        pytest.raises(SweepError, match="Another process is at this sweep"),
    ):
        sweeps.run_sweep(sweep, out=tmp_path / "out", records_folder=tmp_path / "records")


@pytest.mark.slow
def test_a_killed_sweep_resumes_from_its_checkpoint(
    tmp_path: Path, tiny_checkpoint: Path, colours: Path
) -> None:
    config = write_config(
        tmp_path, [{"method": "lora", "rank": 4, "max_steps": 60, "save_steps": 2}]
    )
    asked = [sys.executable, "-m", "qvla", *command(config, tiny_checkpoint, colours, tmp_path)]
    killed = subprocess.Popen(asked, env=child_environment(), stderr=subprocess.DEVNULL)
    while not list((tmp_path / "out").glob("*.checkpoints/checkpoint-*/trainer_state.json")):
        assert killed.poll() is None
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "records").glob("*.json"))
    subprocess.run(asked, env=child_environment(), check=True, capture_output=True)
    (kept,) = records.find(WHAT, [tmp_path / "records"])
    assert kept.record.numbers["train_steps"] == 60
    assert kept.record.numbers["train_processor_seconds"] is None  # so it was resumed
