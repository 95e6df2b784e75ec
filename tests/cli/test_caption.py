"""`qvla caption` over many photos: folders, progress, and a file that goes on where it stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from qvla.captioning import engine
from qvla.cli.caption import CAPTIONS
from qvla.cli.result_file import opened
from qvla.errors import UNUSABLE
from qvla.scoring import read_predictions
from tests.support.alone import LENGTH, Weights

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def base(weights: Weights) -> list[object]:
    return ["--model", weights.model, "--variant", "base", "--max-new-tokens", LENGTH]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Photos of each batch that was captioned; from the third batch on, as if killed."""
    sizes: list[int] = []
    real = engine.caption

    def counted(lineup: object, images: list[Image.Image], *options: object) -> object:
        sizes.append(len(images))
        if len(sizes) == 3:
            raise KeyboardInterrupt
        return real(lineup, images, *options)

    monkeypatch.setattr(engine, "caption", counted)
    return sizes


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def copies(files: list[str], folder: Path, count: int = 5) -> Path:
    folder.mkdir()
    for number in range(count):
        shutil.copy(files[number % len(files)], folder / f"{number}.png")
    return folder


def test_a_file_is_written_as_it_goes_and_gone_on_with(
    run: Run, base: list[object], files: list[str], calls: list[int], tmp_path: Path
) -> None:
    photos = copies(files, tmp_path / "photos")
    out = tmp_path / "out.jsonl"
    command = ["caption", photos, *base, "--batch-size", 1, "--out", out]
    assert run(*command)[0] == 130
    first = out.read_bytes()
    assert [Path(line["photo"]).name for line in lines_of(out)] == ["0.png", "1.png"]
    with out.open("ab") as file:
        file.write(first.splitlines()[0][:40])  # as a kill in the middle of a line leaves it
    code, output, errors = run(*command)
    assert (code, output) == (0, "")
    assert "5 of 5 photos are captioned" in errors
    assert out.read_bytes().startswith(first)
    names = [Path(line["photo"]).name for line in lines_of(out)]
    assert names == [f"{number}.png" for number in range(5)]
    assert calls == [1, 1, 1, 1, 1, 1]  # the third was cut off and made again
    before = out.read_bytes()
    code, output, errors = run(*command, "--json")
    assert code == 0 and "Loading" not in errors and out.read_bytes() == before
    assert [result["photo"] for result in json.loads(output)] == [
        str(photos / f"{number}.png") for number in range(5)
    ]
    said = read_predictions(out)
    assert list(said) == [str(photos / f"{number}.png") for number in range(5)]


def test_photos_that_could_not_be_read_are_tried_again(
    run: Run, base: list[object], files: list[str], tmp_path: Path
) -> None:
    photos = copies(files, tmp_path / "photos", 3)
    out = tmp_path / "out.jsonl"
    good = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(good[:50])
    code, _, errors = run("caption", photos, *base, "--out", out)
    assert code == 1 and "2 of 3 photos are captioned" in errors
    assert ["error" in line for line in lines_of(out)] == [False, True, False]
    (photos / "1.png").write_bytes(good)
    assert run("caption", photos, *base, "--out", out)[0] == 0
    assert sorted(Path(line["photo"]).name for line in lines_of(out)) == ["0.png", "1.png", "2.png"]
    assert not any("error" in line for line in lines_of(out))
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out.jsonl"}


def test_what_is_no_such_file_stays_as_it_is(
    run: Run, base: list[object], files: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert run("caption", files[0], *base, "--out", out)[0] == 0
    before = out.read_bytes()
    code, _, errors = run("caption", *files, *base, "--num-beams", 2, "--out", out)
    assert code == UNUSABLE and "made with other weights or options" in errors
    assert out.read_bytes() == before
    for content in (b"my notes", b'{"image": "a.png", "caption": "x"}\n', b"one\ntwo\n"):
        (tmp_path / "notes.txt").write_bytes(content)
        code, _, errors = run("caption", files[0], *base, "--out", tmp_path / "notes.txt")
        assert code == UNUSABLE and "is no file of captions made by --out (see line 1)" in errors
        assert (tmp_path / "notes.txt").read_bytes() == content
    code, _, errors = run("caption", files[0], *base, "--out", tmp_path)
    assert code == UNUSABLE and "Is a directory" in errors


def test_captions_of_weights_of_another_day_are_not_mixed(
    run: Run, weights: Weights, files: list[str], tmp_path: Path
) -> None:
    adapter = shutil.copytree(weights.adapter, tmp_path / "adapter")
    command = ["caption", files[0], "--model", weights.model, "--adapter", adapter]
    command += ["--variant", "adapter", "--max-new-tokens", 2, "--out", tmp_path / "out.jsonl"]
    assert run(*command)[0] == 0
    shutil.copy(weights.other_adapter / "adapter_model.safetensors", adapter)
    code, _, errors = run(*command)
    assert code == UNUSABLE and "made with other weights or options" in errors


def test_a_name_that_no_file_can_have(run: Run, base: list[object], files: list[str]) -> None:
    code, output, errors = run("caption", "x" * 300, files[0], *base)
    assert code == 1 and files[0] in output and "Traceback" not in errors


def test_two_processes_do_not_write_to_one_file(
    run: Run, base: list[object], files: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    with opened(out, CAPTIONS, "made with"):
        code, _, errors = run("caption", files[0], *base, "--out", out)
    assert code == UNUSABLE and "Another process is captioning" in errors
    assert run("caption", files[0], *base, "--out", out)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_progress_is_told(
    run: Run,
    base: list[object],
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QVLA_PROGRESS", "json")
    folder = copies(files, tmp_path / "photos")
    arguments = ["caption", folder, *base, "--batch-size", 2]
    # `run` clears the variable's kind before the test, so that this one is of the test alone.
    code, output, errors = run(*arguments)
    told = [json.loads(line) for line in errors.splitlines() if line.startswith('{"progress"')]
    assert code == 0
    assert (told[0]["progress"], told[-1]["progress"]) == (0, 5)
    assert {(line["total"], line["what"]) for line in told} == {(5, "Captioning photos")}
    assert "5 photos" in errors
    shown = [line for line in output.splitlines() if not line.startswith(" ")]
    assert shown == [str(folder / f"{number}.png") for number in range(5)]


def test_a_name_that_is_no_text_costs_no_result(
    run: Run, base: list[object], files: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    path = os.path.join(os.fsencode(folder), b"caf\xe9.png")
    try:
        shutil.copy(os.fsencode(files[0]), path)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    code, output, _ = run("caption", folder, files[1], *base)
    assert code == 0 and "caf\\udce9.png" in output and files[1] in output
    out = tmp_path / "out.jsonl"
    code, output, _ = run("caption", folder, files[1], *base, "--json", "--out", out)
    assert code == 0 and output.isascii()
    (odd, _) = json.loads(output)
    assert os.fsencode(odd["photo"]) == path
    assert run("caption", folder, files[1], *base, "--out", out)[0] == 0
    assert len(lines_of(out)) == 2


def test_a_task_of_a_bank_is_named_like_a_contender(
    run: Run, weights: Weights, files: list[str], tmp_path: Path
) -> None:
    bank = tmp_path / "bank"
    shutil.copytree(weights.adapter, bank / "ships")
    shutil.copytree(weights.other_adapter, bank / "roofs")
    (bank / "roofs" / "adapter_model.safetensors").write_bytes(b"torn")
    common = ["caption", files[0], "--model", weights.model, "--max-new-tokens", LENGTH, "--json"]

    def text(name: str, *options: object) -> str:
        code, output, _ = run(*common, "--variant", name, *options)
        assert code == 0
        [result] = json.loads(output)
        assert list(result["variants"]) == [name]
        return result["variants"][name]["caption"]

    told = text("adapter", "--adapter", weights.adapter)
    assert text("ships", "--bank", bank) == told != text("base", "--bank", bank)
    for name, words in (("roofs", "damaged"), ("boats", "ships"), ("../ships", "ships")):
        code, output, errors = run(*common, "--bank", bank, "--variant", name)
        assert (code, output) == (UNUSABLE, "")
        assert words in errors and "Traceback" not in errors
    code, _, errors = run(*common, "--bank", tmp_path / "none", "--variant", "base")
    assert code == UNUSABLE and "not a folder" in errors
