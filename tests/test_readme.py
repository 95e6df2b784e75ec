from __future__ import annotations

import json
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

import qvla
from qvla.cli import main as cli
from qvla.data.imagery import open_image
from tests.support.alone import Alone, make_weights, photos
from tests.support.catalogue import products, write_catalogue

ROOT = Path(qvla.__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("sh")).splitlines()
    return [line.split("#")[0].strip() for line in lines if line.strip()]


def test_the_python_block_captions_a_photo_with_all_three(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [code] = [block for block in blocks("python") if "qvla" in block]
    weights = make_weights(tiny_checkpoint, tmp_path / "adapters")
    monkeypatch.chdir(tmp_path)
    photos(1)[0].save("photo.jpg")
    monkeypatch.setenv("QVLA_MODEL", str(weights.model))
    monkeypatch.setenv("QVLA_ADAPTER", str(weights.adapter))
    monkeypatch.setenv("QVLA_NF4_ADAPTER", str(weights.nf4_adapter))
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["base", "adapter", "qvla"]
    image = open_image("photo.jpg")
    for line, adapter in zip(lines, (None, weights.adapter), strict=False):
        expected = Alone(weights.model, adapter).text(image, max_new_tokens=30)
        assert line.split(": ", 1)[1].rpartition(" (")[0] == expected


@pytest.mark.parametrize("command", [line for line in commands() if "-m qvla " in line])
def test_every_qvla_command_is_one_that_the_command_line_takes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = shlex.split(command.split("-m qvla ", 1)[1])
    if "--help" in arguments:
        with pytest.raises(SystemExit) as stop:
            cli.parse(arguments)
        assert stop.value.code == 0
    else:
        assert callable(cli.parse(arguments).run)


def test_the_readme_shows_every_verb() -> None:
    shown = {line.split("-m qvla ")[1].split()[0] for line in commands() if "-m qvla " in line}
    assert shown == set(cli.VERBS)


@pytest.mark.parametrize("command", [line for line in commands() if "make " in line])
def test_every_make_target_exists(command: str) -> None:
    target = command.split("make ")[1].split()[0]
    result = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_modules_and_files_that_are_named_exist() -> None:
    for module in re.findall(r"-m (qvla\.[\w.]+)", README):
        assert find_spec(module), module
    for name in re.findall(r"-r ([\w.-]+\.txt)", README):
        assert (ROOT / name).is_file(), name
    [tree] = blocks("text")
    described = re.findall(r"[\w/]+\.py\b|^  \w+/", tree, re.MULTILINE)
    assert len(described) > 10
    for name in (entry.strip() for entry in described):
        assert (ROOT / "qvla" / name).exists() or (ROOT / name).exists(), name


def test_the_catalogue_trains_by_the_command_that_is_shown(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On drawn products, by the tiny model in place of the one that would be downloaded."""
    [command] = [line for line in commands() if "--caption-template" in line]
    [row] = map(json.loads, blocks("json"))
    assert row.keys() - {"file_name"} == products()[0].keys()
    arguments = shlex.split(command.split("-m qvla ", 1)[1])
    arguments[arguments.index("--model") + 1] = str(tiny_llava)
    write_catalogue(tmp_path / "catalogue")
    monkeypatch.chdir(tmp_path)
    quick = "--device cpu --log-steps 1 --learning-rate 0.01 --sample-photos 0"
    assert cli.main([*arguments, *quick.split()]) == 0
    card = json.loads((tmp_path / "runs" / "catalogue" / "run.json").read_text())
    losses = [row["loss"] for row in card["curve"] if "loss" in row]
    assert (card["data"]["photos"], card["data"]["captions"]) == (18, 18)
    assert losses[-1] < losses[0]
    assert card["recipe"]["precision"] == "int8"
