"""Answers of BLIP and ViLT in every contender, held against each loaded alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BitsAndBytesConfig

from qvla.captioning.attention import where_it_looked
from qvla.captioning.contenders import Contender
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption, stream
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import encode_text, prompt_of
from qvla.errors import QvlaError
from qvla.models.backbone import load_backbone
from tests.support.tiny_answers import (
    LENGTH,
    QUESTIONS,
    alone,
    answer_alone,
    build_tiny_blip,
    build_tiny_vilt,
    photos,
    picked_alone,
    save_lora,
)

DECODING = Decoding(max_new_tokens=LENGTH)
NAMES = ["base", "first", "second", "sight"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def adapters(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    text = ["query", "key", "value"]
    return {
        "first": save_lora(checkpoint, folder / "first", seed=1, targets=text),
        "second": save_lora(checkpoint, folder / "second", seed=2, targets=text, rank=2),
        "sight": save_lora(checkpoint, folder / "sight", seed=3, targets=["qkv", "value"]),
    }


@pytest.fixture(scope="module")
def lineup(checkpoint: Path, adapters: dict[str, Path]) -> Lineup:
    return Lineup.of(
        [
            Contender(
                name=name,
                title=name,
                base=str(checkpoint),
                precision="fp32",
                adapter=str(adapters[name]) if name in adapters else None,
            )
            for name in NAMES
        ],
        device="cpu",
    )


@pytest.fixture(scope="module")
def asked() -> list[tuple[Image.Image, str]]:
    """Two photos, all questions about the first: they are of several lengths."""
    first, second = photos(2)
    return [*((first, question) for question in QUESTIONS), (second, QUESTIONS[1])]


@pytest.fixture(scope="module")
def expected(
    checkpoint: Path, adapters: dict[str, Path], asked: list[tuple[Image.Image, str]]
) -> dict[str, list[str]]:
    answers = {}
    for name in NAMES:
        model = alone(checkpoint, adapters.get(name))
        answers[name] = [answer_alone(checkpoint, model, *one) for one in asked]
    return answers


def test_answers_differ_by_contender_photo_and_question(expected: dict[str, list[str]]) -> None:
    assert len({tuple(answers) for answers in expected.values()}) == len(NAMES)
    assert all(any(answers) for answers in expected.values())
    base = expected["base"]
    assert len(set(base[: len(QUESTIONS)])) > 1 and base[1] != base[-1]


def test_a_batch_of_questions_is_answered_as_each_alone(
    lineup: Lineup, asked: list[tuple[Image.Image, str]], expected: dict[str, list[str]]
) -> None:
    images = [photo for photo, _ in asked]
    prompts = [prompt_of(question) for _, question in asked]
    answers = caption(lineup, images, decoding=DECODING, prefixes=prompts)
    for name in NAMES:
        assert [row[name].text for row in answers] == expected[name]
    one = answers[0]["base"]
    assert 0 < one.tokens <= LENGTH and 0 < one.seconds_to_first_token <= one.seconds


def test_beams_are_the_models_own(
    lineup: Lineup,
    checkpoint: Path,
    adapters: dict[str, Path],
    asked: list[tuple[Image.Image, str]],
) -> None:
    images, prompts = [one[0] for one in asked], [prompt_of(one[1]) for one in asked]
    decoding = Decoding(max_new_tokens=LENGTH, num_beams=2)
    answers = caption(lineup, images, ["base", "first"], decoding, prompts)
    for name in ("base", "first"):
        model = alone(checkpoint, adapters.get(name))
        due = [answer_alone(checkpoint, model, *one, num_beams=2) for one in asked]
        assert [row[name].text for row in answers] == due


def test_an_answer_streams_token_by_token(
    lineup: Lineup, asked: list[tuple[Image.Image, str]], expected: dict[str, list[str]]
) -> None:
    photo, question = asked[0]
    states = list(stream(lineup, photo, decoding=DECODING, prefix=prompt_of(question)))
    last = states[-1]
    for name in NAMES:
        assert last[name].done and last[name].text == expected[name][0]
        texts = [state[name].text for state in states]
        assert all(last[name].text.startswith(text) for text in texts)


def test_a_caption_is_refused_in_a_sentence(lineup: Lineup) -> None:
    [photo] = photos(1)
    with pytest.raises(QvlaError, match="answers questions and writes no captions") as raised:
        caption(lineup, [photo], ["base"])
    assert str(raised.value).endswith(".") and "answer en QUESTION" in str(raised.value)
    state = list(stream(lineup, photo, ["base"]))[-1]["base"]
    assert state.done and state.error == str(raised.value)


def test_where_it_looked_is_not_told(lineup: Lineup) -> None:
    [photo] = photos(1)
    with pytest.raises(QvlaError, match="BLIP does not tell where in a photo it looked"):
        where_it_looked(lineup, "base", photo, prompt_of(QUESTIONS[0]), "a river")


def test_nf4_and_its_adapter_answer_as_alone(
    checkpoint: Path, adapters: dict[str, Path], asked: list[tuple[Image.Image, str]]
) -> None:
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    common = {"base": str(checkpoint), "precision": "nf4"}
    lineup = Lineup.of(
        [
            Contender(name="base", title="base", **common),
            Contender(name="first", title="first", **common, adapter=str(adapters["first"])),
        ],
        device="cpu",
    )
    images, prompts = [one[0] for one in asked], [prompt_of(one[1]) for one in asked]
    answers = caption(lineup, images, decoding=DECODING, prefixes=prompts)
    for name in ("base", "first"):
        model = alone(
            checkpoint,
            adapters.get(name),
            quantization_config=config,
            dtype=torch.bfloat16,
            device_map="cpu",
        )
        due = [answer_alone(checkpoint, model, *one) for one in asked]
        assert [row[name].text for row in answers] == due


@pytest.fixture(scope="module")
def vilt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vilt")
    base = build_tiny_vilt(folder / "base")
    return {"base": base, "lora": save_lora(base, folder / "lora", seed=1, targets=["query"])}


def test_vilt_picks_for_photos_of_any_shape_as_alone(vilt: dict[str, Path]) -> None:
    lineup = Lineup.of(
        [
            Contender(name="base", title="Base", base=str(vilt["base"]), precision="fp32"),
            Contender(
                name="lora",
                title="LoRA",
                base=str(vilt["base"]),
                precision="fp32",
                adapter=str(vilt["lora"]),
            ),
        ],
        device="cpu",
    )
    shapes = [(40, 40), (64, 40), (40, 70), (33, 80)]
    images = [one.resize(size) for one, size in zip(photos(4), shapes, strict=True)]
    prompts = [prompt_of(question) for question in QUESTIONS]
    answers = caption(lineup, images, prefixes=prompts)
    due = {}
    for name, adapter in (("base", None), ("lora", vilt["lora"])):
        model = alone(vilt["base"], adapter)
        due[name] = [
            picked_alone(vilt["base"], model, *one) for one in zip(images, QUESTIONS, strict=True)
        ]
        assert [row[name].text for row in answers] == due[name]
        assert {row[name].tokens for row in answers} == {1}
        assert len(set(due[name])) > 1
    assert due["base"] != due["lora"]
    last = list(stream(lineup, images[0], prefix=prompts[0]))[-1]
    assert {name: state.text for name, state in last.items()} == {
        name: texts[0] for name, texts in due.items()
    }
    assert all(state.done and state.tokens == 1 for state in last.values())


def test_a_question_longer_than_vilt_takes_is_refused(vilt: dict[str, Path]) -> None:
    processor = load_backbone(vilt["base"], "bf16", device="cpu").processor
    processor.tokenizer.model_max_length = 40
    with pytest.raises(QvlaError, match="is 62 tokens long and ViLT takes 40"):
        encode_text(processor, ["answer en " + "river " * 60])
    with pytest.raises(QvlaError, match="cannot be given answers"):
        encode_text(processor, ["answer en is there a river ?"], ["yes"])
