"""The methods suite on a tiny model: every method timed, and five adapters cost what they weigh."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qvla.bench.arrangements import BenchError
from qvla.bench.methods_memory import bytes_of, measure
from qvla.bench.methods_suite import FIVE, chosen_methods, make_adapter
from qvla.cli.main import main
from qvla.methods.registry import KINDS
from qvla.models.adapter_files import WEIGHTS
from qvla.settings import ASSETS, Settings


@pytest.mark.slow
def test_the_suite_from_the_command_line(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"model": tiny_checkpoint, "data": ASSETS / "examples", "records": tmp_path}
    given |= {"device": "cpu", "precision": "fp32", "repeats": 2, "memory-repeats": 1}
    given |= {"photos": 1, "new-tokens": 3, "variant": "lora,adapter"}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    assert main(["bench", "--suite", "methods", *words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    numbers = record["numbers"]
    assert record["variants"] == ["base", "adapter", "lora"]
    for name in ("adapter", "lora"):
        assert numbers[f"{name}/token_seconds"] > 0
        low, high = (numbers[f"{name}/token_ratio/{end}"] for end in ("lowest", "highest"))
        assert low <= high

    own, extra = numbers["five/own_bytes"] - numbers["one/own_bytes"], "five/extra_tensors_bytes"
    assert numbers["five/tensors_bytes"] - numbers["one/tensors_bytes"] - own == numbers[extra] == 0


def test_five_adapters_of_three_classes_take_their_own_bytes_and_no_more(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    settings = Settings(model=str(tiny_checkpoint), device="cpu", precision="fp32")
    made = {name: str(make_adapter(settings, name, tmp_path / name)) for name in set(FIVE)}
    one, five = (measure(settings, [made[name] for name in names]) for names in (FIVE[:1], FIVE))
    # The bytes of each, from what is written of it.
    own = {
        name: sum(tensor.nbytes for tensor in load_file(f"{folder}/{WEIGHTS}").values())
        for name, folder in made.items()
    }
    assert one["own"] == own[FIVE[0]]
    assert five["own"] == sum(own[name] for name in FIVE)
    # No weight of the base is there twice, though there are three views on it.
    assert five["tensors"] - one["tensors"] == five["own"] - one["own"]


def test_what_two_trees_share_is_counted_once() -> None:
    first, second = torch.nn.Linear(4, 8, bias=False), torch.nn.Linear(8, 4, bias=False)
    both = torch.nn.Sequential(first, second)
    assert bytes_of([first, second, both]) == 2 * 4 * 8 * 4
    second.weight = torch.nn.Parameter(first.weight.detach().T)  # another look at the same storage
    assert bytes_of([both]) == 4 * 8 * 4


def test_methods_are_chosen_among_those_that_make_adapters() -> None:
    assert set(chosen_methods(None)) < set(KINDS)
    assert chosen_methods("lora, adapter") == ("adapter", "lora")
    for wrong in ("full", "qlora", "magic", ","):
        with pytest.raises(BenchError, match="--variant takes some of adapter, lora"):
            chosen_methods(wrong)
