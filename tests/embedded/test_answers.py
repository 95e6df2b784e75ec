"""The embedded model's own adapters for questions, held against PEFT alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import prompt_of
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.settings import ASSETS, EMBEDDED_MODEL
from tests.support.alone import LENGTH, Alone

QUESTIONS = ("is there any river ?", "which scene is this ?", "what color is the roof ?")
DECODING = Decoding(max_new_tokens=LENGTH)


@pytest.fixture(scope="module")
def lineup() -> Lineup:
    folder = EMBEDDED_MODEL / "adapter"
    return Lineup.load(
        EMBEDDED_MODEL, adapter=folder, precision="fp32", device="cpu", variants=["adapter"]
    )


def test_the_shipped_adapter_answers_and_captions_as_each_half_does_alone(lineup: Lineup) -> None:
    photo = open_image(read_examples(ASSETS / "examples")[0].image)
    answering = Alone(EMBEDDED_MODEL, EMBEDDED_MODEL / "adapter" / "vqa")
    captioning = Alone(EMBEDDED_MODEL, EMBEDDED_MODEL / "adapter")
    prompts = [*(prompt_of(question) for question in QUESTIONS), "caption en"]
    answers = caption(lineup, [photo] * len(prompts), ["adapter"], DECODING, prompts)
    said = [answer["adapter"].text for answer in answers]
    assert said == [
        (captioning if prompt == "caption en" else answering).text(photo, prompt=f"<image>{prompt}")
        for prompt in prompts
    ]
    assert said[0] in ("yes", "no")


@pytest.mark.parametrize("folder", ["adapter", "qvla"])
def test_the_checkpoint_stays_small_and_holds_both_kinds(folder: str) -> None:
    files = [path for path in Path(EMBEDDED_MODEL).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 24_000_000
    assert (EMBEDDED_MODEL / folder / "vqa" / "adapter_model.safetensors") in files
