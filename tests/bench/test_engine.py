"""The suite `engine`: what it measures, what it refuses, and the way that it measures against."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from qvla.bench import arrangements, engine
from qvla.bench.arrangements import BenchError
from qvla.captioning.contenders import VARIANTS
from qvla.captioning.decoding import Decoding
from qvla.cli import main as cli
from qvla.settings import Settings
from tests.support.alone import Alone, make_weights, photos
from tests.support.serving import write_risc_folder

RATIOS = [
    *(f"{name}/token_to_generate" for name in VARIANTS),
    *("clients_rate", "panes_to_one", "stream_to_call"),
    *("evaluation_to_generate", "evaluation_to_generate_in_batches"),
]


def test_the_suite_from_the_command_line(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = make_weights(tiny_checkpoint, tmp_path / "adapters")
    monkeypatch.setattr(engine, "CLIENTS", 2)
    rows = [("here", "val", f"{number}.png", ["a river ."]) for number in range(2)]
    options = {
        "--model": weights.model,
        "--adapter": weights.adapter,
        "--nf4-adapter": weights.nf4_adapter,
        "--data": write_risc_folder(tmp_path / "data", rows),
        "--records": tmp_path / "records",
        **{"--photos": 1, "--repeats": 1, "--new-tokens": 2, "--device": "cpu"},
    }
    given = [str(word) for option in options.items() for word in option]
    assert cli.main(["bench", "--suite", "engine", *given, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    numbers, protocol = record["numbers"], record["protocol"]
    assert record["data"]["items"] == 1 and record["variants"] == list(VARIANTS)
    for name in RATIOS:
        unit = "per_second" if name == "clients_rate" else "seconds"
        ours, other = numbers[f"{name}/ours_{unit}"], numbers[f"{name}/other_{unit}"]
        assert numbers[f"{name}_ratio"] == pytest.approx(ours / other)
    assert {name.split("_ratio")[0] for name in numbers if name.endswith("_ratio")} == {
        *RATIOS,
        *(f"{name}_{end}" for name in RATIOS for end in ("lowest", "highest")),
    }
    assert protocol["computes_in"].keys() == set(VARIANTS)
    assert protocol["computes_in"]["base"] == "float32"


def test_the_reference_is_generate_photo_by_photo(tiny_checkpoint: Path, tmp_path: Path) -> None:
    weights = make_weights(tiny_checkpoint, tmp_path)
    settings = Settings(model=str(weights.model), adapter=str(weights.adapter), device="cpu")
    lineup = arrangements.load_lineup(settings, ["base", "adapter"])
    images, decoding = photos(3), Decoding(max_new_tokens=8)
    for name, folder, at_once in (("base", None, 1), ("adapter", weights.adapter, 2)):
        alone, shared = Alone(weights.model, folder), lineup.shared(name)
        said = arrangements.caption_by_generate(shared, name, images, decoding, at_once)
        assert said == [alone.text(image) for image in images]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"repeats": 0}, "--repeats must be at least 1"),
        (
            {"parts": "speed"},
            "--parts takes some of token, clients, panes, evaluation, not 'speed'",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(changed: dict[str, object], sentence: str) -> None:
    given = {"photos": 1, "repeats": 1, "new_tokens": 2, "parts": None, "variant": None}
    with pytest.raises(BenchError, match=sentence):
        engine.run(argparse.Namespace(**given | changed), Settings(device="cpu"))
