"""`qvla explore` against what it counts, in each form that it prints."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path

from qvla.cli.main import parse
from qvla.methods.registry import METHODS
from qvla.models.architectures import PALIGEMMA2_3B
from qvla.planning.comparison import COLUMNS
from qvla.planning.explorer import explore

Run = Callable[..., tuple[int, str, str]]
PROMISED = {
    *("trainable_params", "total_params", "percent", "adapter_bytes", "mergeable"),
    *("works_on_nf4", "train_bytes", "serve_bytes", "sites"),
}


def test_json_has_what_is_promised_of_a_built_in_model(run: Run) -> None:
    code, output, _ = run(
        *("explore", "--model", PALIGEMMA2_3B, "--method", "lora", "--rank", "8"),
        *("--layers", "0,24-25", "--json"),
    )
    found = json.loads(output)
    assert code == 0 and found.keys() >= PROMISED
    due = explore(PALIGEMMA2_3B, "lora", rank=8, layers=[0, 24, 25])
    assert found == json.loads(json.dumps(due.as_json()))
    assert {site["layer"] for site in found["sites"]} == {0, 24, 25}
    assert callable(parse(shlex.split(found["command"])[3:]).run)


def test_in_words_it_ends_with_the_command_that_does_it(run: Run, tiny_checkpoint: Path) -> None:
    code, output, _ = run(
        "explore", "--model", tiny_checkpoint, "--method", "bottleneck", "--width", "8"
    )
    found = explore(tiny_checkpoint, "bottleneck", width=8)
    assert code == 0
    assert f"{found.trainable_params:,}" in output and f"{len(found.sites)} places:" in output
    assert output.splitlines()[-1] == found.command


def test_all_methods_are_rows(run: Run, tiny_checkpoint: Path) -> None:
    code, output, _ = run("explore", "--model", tiny_checkpoint, "--all", "--csv", "--rank", 4)
    rows = list(csv.DictReader(io.StringIO(output)))
    assert code == 0 and [row["method"] for row in rows] == list(METHODS)
    assert list(rows[0]) == list(COLUMNS)
    for row in rows[:2]:
        own = {"rank": 4} if "rank" in METHODS[row["method"]].fields else {}
        found = explore(tiny_checkpoint, row["method"], **own)
        assert int(row["trainable_params"]) == found.trainable_params
    _, table, _ = run("explore", "--model", tiny_checkpoint, "--all", "--precision", "nf4")
    assert "Full fine-tuning does not work on an NF4 base" in table


def test_what_cannot_be_is_one_sentence(run: Run, tiny_checkpoint: Path) -> None:
    for asked, told in (
        (["--method", "lora", "--layers", "all"], "Layers are numbers"),
        (["--method", "lora", "--rank", "many"], "rank cannot be 'many'"),
        (["--model", "owner/not-there"], "Built in: google/paligemma-3b-pt-224"),
    ):
        code, output, errors = run("explore", "--model", tiny_checkpoint, *asked)
        assert (code, output) == (2, "") and told in errors
        assert len(errors.strip().splitlines()) == 1
