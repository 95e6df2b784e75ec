from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from qvla.captioning import engine
from qvla.captioning.lineup import Lineup
from qvla.cli import main as cli
from tests.support.alone import LENGTH, Alone, Weights, photos
from tests.support.made_images import geotiff

ROOT = Path(cli.__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]


def model_of(weights: Weights) -> list[object]:
    adapters = ["--adapter", weights.adapter, "--nf4-adapter", weights.nf4_adapter]
    return ["--model", weights.model, *adapters, "--max-new-tokens", LENGTH]


def test_help_comes_without_loading_any_heavy_library() -> None:
    code = (
        "import sys; from qvla.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'gradio', 'numpy'} & set(sys.modules)))"
    )
    for arguments in (["--help"], ["caption", "--help"], ["evaluate", "--help"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
        )
        assert "usage: qvla" in result.stdout
        assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(verb: str, run: Run) -> None:
    code, output, _ = run(verb, "--help")
    assert code == 0
    assert f"usage: qvla {verb}" in output


def test_json_says_what_each_variant_alone_says_in_the_order_given(
    run: Run, weights: Weights, files: list[str]
) -> None:
    asked = [files[2], files[0], files[1], files[0]]
    code, output, _ = run("caption", *asked, *model_of(weights), "--batch-size", 3, "--json")
    assert code == 0
    results = json.loads(output)
    assert [result["photo"] for result in results] == asked
    alone = {
        "base": Alone(weights.model),
        "adapter": Alone(weights.model, weights.adapter),
    }
    images = dict(zip(files, photos(3), strict=True))
    for result in results:
        assert list(result) == ["photo", "variants"]
        assert list(result["variants"]) == ["base", "adapter", "qvla"]
        said: dict[str, str] = {}
        for name, answer in result["variants"].items():
            if name == "qvla":  # NF4 kernels may round otherwise in a batch, so no exact words
                assert answer["caption"] not in (said["base"], said["adapter"])
            else:
                assert answer["caption"] == alone[name].text(images[result["photo"]])
            said[name] = answer["caption"]
            assert 1 <= answer["tokens"] <= LENGTH
            assert 0 < answer["seconds_to_first_token"] <= answer["seconds"]
    base, adapter, qvla = (results[0]["variants"][name] for name in ("base", "adapter", "qvla"))
    own = (weights.adapter / "adapter_model.safetensors").stat().st_size
    assert 0 < adapter["weight_bytes"] - base["weight_bytes"] <= own
    assert qvla["weight_bytes"] < base["weight_bytes"]


def test_photos_that_cannot_be_read_do_not_stop_the_rest(
    run: Run, weights: Weights, files: list[str], tmp_path: Path
) -> None:
    text = tmp_path / "text.png"
    text.write_text("no photo")
    empty = tmp_path / "empty"
    empty.mkdir()
    asked = [text, files[0], tmp_path / "none.png", empty, files[1]]
    code, output, errors = run(
        "caption", *asked, *model_of(weights), "--variant", "base", "--batch-size", 2, "--json"
    )
    results = json.loads(output)
    assert code == 1
    assert [result["photo"] for result in results] == [str(path) for path in asked]
    assert ["error" in result for result in results] == [True, False, True, True, False]
    assert all("variants" not in result for result in results if "error" in result)
    assert "folder" in results[3]["error"]
    alone = Alone(weights.model)
    for result, photo in zip((results[1], results[4]), photos(3), strict=False):
        assert result["variants"]["base"]["caption"] == alone.text(photo)
    for path in (text, tmp_path / "none.png", empty):
        assert f"{path}: " in errors
    assert "Traceback" not in errors


def test_what_a_raster_left_open_is_told(run: Run, weights: Weights, tmp_path: Path) -> None:
    raster = tmp_path / "scene.tif"
    bands = np.random.default_rng(0).integers(300, 3000, (4, 40, 40)).astype(np.int16)
    bands[:, :10] = -9999
    raster.write_bytes(geotiff(bands))
    told = [
        "Bands 1, 2 and 3 of 4 are shown as red, green and blue; the file does not say which they "
        "are.",
        "-9999, in 25% of the picture, was taken for no data and is black.",
    ]
    asked = ["caption", raster, *model_of(weights), "--variant", "base"]
    code, output, _ = run(*asked)
    assert code == 0
    assert output.splitlines()[:3] == [str(raster), *(f"  ({note})" for note in told)]
    [result] = json.loads(run(*asked, "--json")[1])
    assert result["notes"] == told


def test_photos_go_in_full_batches_and_unreadable_ones_take_no_place(
    run: Run, weights: Weights, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    real = engine.caption

    def counted(lineup: Lineup, images: list[Image.Image], *options: object) -> object:
        sizes.append(len(images))
        return real(lineup, images, *options)

    monkeypatch.setattr(engine, "caption", counted)
    asked = [files[0], "none.png", *files, *files[:1]]
    options = [*model_of(weights), "--variant", "base", "--batch-size", 2]
    assert run("caption", *asked, *options)[0] == 1
    assert sizes == [2, 2, 1]


def test_without_json_the_captions_are_plain_text(
    run: Run, weights: Weights, files: list[str]
) -> None:
    code, output, _ = run("caption", *files[:2], *model_of(weights), "--variant", "adapter")
    assert code == 0
    alone = Alone(weights.model, weights.adapter)
    lines = output.splitlines()
    assert [lines[0], lines[2]] == files[:2]
    for line, photo in zip(lines[1::2], photos(2), strict=True):
        assert line.split()[0] == "adapter"
        assert alone.text(photo) in line


def test_standard_output_of_the_real_process_is_json_and_nothing_else(
    weights: Weights, files: list[str]
) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("QVLA_")},
        "QVLA_MODEL": str(weights.model),
        "QVLA_ADAPTER": str(weights.adapter),
        "QVLA_NF4_ADAPTER": str(weights.nf4_adapter),
    }
    command = [sys.executable, "-m", "qvla", "caption", files[0], "--json", "--max-new-tokens", "3"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)[0]["variants"]) == {"base", "adapter", "qvla"}
    assert "Loading" in result.stderr
    assert "Warning" not in result.stderr


def test_adapters_beside_the_model_are_found_and_missing_ones_are_told(
    run: Run, weights: Weights, files: list[str], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in weights.model.iterdir():
        (model / file.name).symlink_to(file)
    (model / "adapter").symlink_to(weights.adapter)
    code, output, errors = run("caption", files[0], "--model", model, "--json")
    assert code == 0
    assert list(json.loads(output)[0]["variants"]) == ["base", "adapter"]
    assert "QVLA is left out: " in errors
    code, output, errors = run("caption", files[0], "--model", model, "--variant", "qvla")
    assert (code, output) == (2, "")
    assert "QVLA is not available: " in errors


def test_one_variant_loads_only_its_own_weights(
    run: Run, weights: Weights, files: list[str]
) -> None:
    for variant, loaded, other in (("qvla", "nf4", "fp32"), ("base", "fp32", "nf4")):
        options = [*model_of(weights), "--variant", variant, "--device", "cpu", "--json"]
        code, output, errors = run("caption", files[0], *options)
        assert code == 0
        assert list(json.loads(output)[0]["variants"]) == [variant]
        assert f"in {loaded} on cpu" in errors and f"in {other} on cpu" not in errors


def test_a_seed_makes_sampling_repeatable(run: Run, weights: Weights, files: list[str]) -> None:
    def sampled(seed: int) -> str:
        options = ["--variant", "base", "--temperature", 1.5, "--seed", seed, "--json"]
        _, output, _ = run("caption", files[0], *model_of(weights), *options)
        return json.loads(output)[0]["variants"]["base"]["caption"]

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(1, 5)}) > 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--temperature", "-1"], "temperature"),
        (["--num-beams", "2", "--temperature", "1"], "beam"),
        (["--max-new-tokens", "0"], "maximum length"),
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (["--precision", "nf4"], "--precision"),
        (["--batch-size", "0"], "--batch-size"),
        (["--variant", "everything"], "among base, adapter, qvla; asked for was everything"),
    ],
)
def test_what_cannot_be_done_is_said_and_exits_with_2(
    arguments: list[str], named: str, run: Run, weights: Weights, files: list[str]
) -> None:
    code, output, errors = run("caption", files[0], "--model", weights.model, *arguments)
    assert (code, output) == (2, "")
    assert "Traceback" not in errors
    assert named in errors.strip().splitlines()[-1].lower()


def test_a_bad_environment_variable_is_named(
    run: Run, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QVLA_DEVICE", "abacus")
    code, output, errors = run("caption", files[0])
    assert (code, output) == (2, "")
    assert "QVLA_DEVICE" in errors


@pytest.mark.parametrize("arguments", [[], ["paint"], ["caption"], ["caption", "a.png", "--what"]])
def test_bad_usage_exits_with_2(arguments: list[str], run: Run) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert "usage: qvla" in errors


def test_params_counts_the_report_s_numbers_offline(run: Run) -> None:
    code, output, _ = run("params", "--model", "google/paligemma-3b-pt-224", "--json")
    assert code == 0
    counted = json.loads(output)
    expected = {
        "full_params": 2923466480,
        "adapter_params": 18952704,
        "adapter_sites": 36,
        "nf4_packed_elements": 1197619200,
    }
    assert {name: counted[name] for name in expected} == expected
    assert counted["adapter_percent"] == pytest.approx(0.648, abs=5e-4)


def test_a_fault_in_the_program_shows_no_trace_unless_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(options: object) -> int:
        raise ZeroDivisionError("division by zero")

    module = SimpleNamespace(add_arguments=lambda parser: None, run=broken)
    monkeypatch.setattr(cli, "import_module", lambda name: module)
    code, output, errors = run("params")
    assert (code, output) == (70, "")
    assert errors.count("\n") == 1
    assert "ZeroDivisionError" in errors
    assert "Traceback" in run("params", "--verbose")[2]
