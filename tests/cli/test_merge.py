from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from qvla.data.imagery import open_image
from tests.support import peft_zoo
from tests.support.alone import LENGTH, Alone, photos

Run = Callable[..., tuple[int, str, str]]


def test_a_merged_folder_is_a_model_like_any_other(
    run: Run, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    lora = peft_zoo.make("lora in the decoder", tiny_checkpoint, tmp_path / "lora")
    asked = ["merge", "--model", tiny_checkpoint, "--adapter", lora, "--device", "cpu"]
    code, output, _ = run(*asked, "--out", tmp_path / "one")
    assert code == 0
    assert "with the lora adapter lora in its weights, in fp32" in output
    assert "airplane.jpg" in output and "the caption is the same" in output

    code, output, errors = run(*asked, "--out", tmp_path / "one")
    assert (code, output) == (2, "") and "there already" in errors
    code, output, _ = run(*asked, "--out", tmp_path / "two", "--json")
    record = json.loads(output)
    assert record["precision"] == "fp32" and record["method"] == "lora"
    assert record["proof"]["difference"] < 1e-4 < record["proof"]["adapter_moves"]

    photos(1)[0].save(tmp_path / "photo.png")
    arguments = ["--variant", "base", "--max-new-tokens", LENGTH, "--json"]
    code, output, _ = run(
        *("caption", tmp_path / "photo.png", "--model", tmp_path / "one", *arguments)
    )
    assert code == 0
    said = json.loads(output)[0]["variants"]["base"]["caption"]
    assert said == Alone(tiny_checkpoint, lora).text(open_image(tmp_path / "photo.png"))
