"""An adapter's folder may hold another, `vqa`, which answers questions in place of the first."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from qvla.captioning.attention import where_it_looked
from qvla.captioning.contenders import VARIANTS
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption, stream
from qvla.captioning.lineup import Lineup
from qvla.models.adapters import AdapterError
from tests.support.alone import LENGTH, Alone, Weights, clear_photos, photos

DECODING = Decoding(max_new_tokens=LENGTH)
QUESTION = "answer en many trees near the beach"


@pytest.fixture(scope="module")
def pair(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with(weights.adapter, weights.other_adapter, tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def lora(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of another method, which cannot be a row of the first one's batch."""
    torch.manual_seed(5)
    config = LoraConfig(
        r=4,
        lora_alpha=64,
        target_modules=r".*language_model.*\.(q_proj|v_proj)",
        init_lora_weights=False,
    )
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(weights.model), config)
    folder = tmp_path_factory.mktemp("lora")
    model.save_pretrained(folder)
    return folder


def folder_with(first: Path, second: Path, folder: Path) -> Path:
    shutil.copytree(first, folder, dirs_exist_ok=True)
    shutil.copytree(second, folder / "vqa")
    return folder


def test_questions_go_by_the_second_and_captions_by_the_first(
    weights: Weights, pair: Path, lora: Path, tmp_path: Path
) -> None:
    nf4 = folder_with(weights.nf4_adapter, weights.other_nf4_adapter, tmp_path / "nf4")
    captioning = {
        "base": Alone(weights.model),
        "adapter": Alone(weights.model, weights.adapter),
        "qvla": Alone(weights.model, weights.nf4_adapter, nf4=True),
    }
    answering = {
        "base": captioning["base"],
        "adapter": Alone(weights.model, weights.other_adapter),
        "qvla": Alone(weights.model, weights.other_nf4_adapter, nf4=True),
    }
    photos = clear_photos([*captioning.values(), *answering.values()], 2)
    lineup = Lineup.load(
        weights.model, adapter=pair, nf4_adapter=nf4, precision="fp32", device="cpu"
    )
    images, prompts = [photos[0], photos[1], photos[0]], [QUESTION, "caption en", "caption en"]
    answers = caption(lineup, images, VARIANTS, DECODING, prompts)
    for answer, image, prompt in zip(answers, images, prompts, strict=True):
        models = answering if prompt == QUESTION else captioning
        for name in VARIANTS:
            assert answer[name].text == models[name].text(image, prompt=f"<image>{prompt}"), name
    first = captioning["adapter"].text(photos[0], prompt=f"<image>{QUESTION}")
    assert answers[0]["adapter"].text != first

    *_, last = stream(lineup, photos[0], VARIANTS, DECODING, QUESTION)
    assert {name: partial.text for name, partial in last.items()} == {
        name: one.text for name, one in answers[0].items()
    }
    alone = own_bytes(weights.adapter), own_bytes(weights.other_adapter)
    base, adapter = (lineup.variant(name).weight_bytes for name in ("base", "adapter"))
    assert adapter - base == sum(alone)

    lineup.swap_adapter("adapter", folder_with(weights.adapter, lora, tmp_path / "of two methods"))
    (asked,) = caption(lineup, photos[:1], ["base", "adapter"], DECODING, QUESTION)
    (told,) = caption(lineup, photos[:1], ["base", "adapter"], DECODING)
    by_lora = Alone(weights.model, lora)
    assert asked["adapter"].text == by_lora.text(photos[0], prompt=f"<image>{QUESTION}")
    assert asked["base"].text == answers[0]["base"].text
    assert told["adapter"].text == answers[2]["adapter"].text


def own_bytes(folder: Path) -> int:
    """Of an adapter in float32."""
    weights = load_file(folder / "adapter_model.safetensors")
    return sum(4 * weight.numel() for weight in weights.values())


def test_swapping_brings_and_takes_both(weights: Weights, pair: Path, tmp_path: Path) -> None:
    lineup = Lineup.load(
        weights.model, adapter=pair, precision="fp32", device="cpu", variants=["adapter"]
    )
    (photo,) = clear_photos([Alone(weights.model)], 1)

    def said(prompt: str) -> str:
        return caption(lineup, [photo], ["adapter"], DECODING, prompt)[0]["adapter"].text

    before = said(QUESTION), said("caption en")
    broken = folder_with(weights.other_adapter, pair, tmp_path / "broken")
    (broken / "vqa" / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(AdapterError, match="damaged or truncated"):
        lineup.swap_adapter("adapter", broken)
    assert (said(QUESTION), said("caption en")) == before

    lineup.swap_adapter("adapter", weights.other_adapter)
    other = Lineup.load(
        weights.model, adapter=weights.other_adapter, precision="fp32", device="cpu",
        variants=["adapter"],
    )  # fmt: skip
    (answer,) = caption(other, [photo], ["adapter"], DECODING, QUESTION)
    assert said(QUESTION) == answer["adapter"].text
    lineup.swap_adapter("adapter", pair)
    assert (said(QUESTION), said("caption en")) == before
    lineup.drop_adapter("adapter")
    assert not lineup.shared("adapter").views


def test_where_it_looked_is_told_of_the_adapter_that_answers(weights: Weights, pair: Path) -> None:
    def answers(adapter: Path, prompt: str) -> np.ndarray:
        lineup = Lineup.load(weights.model, adapter=adapter, device="cpu", variants=("adapter",))
        return where_it_looked(lineup, "adapter", photos(1)[0], prompt, "a green river").answer

    asked = answers(pair, QUESTION)
    np.testing.assert_allclose(asked, answers(weights.other_adapter, QUESTION), atol=1e-6)
    assert np.abs(asked - answers(weights.adapter, QUESTION)).max() > 1e-3
    captioned = answers(weights.adapter, "caption en")
    np.testing.assert_allclose(answers(pair, "caption en"), captioned, atol=1e-6)
