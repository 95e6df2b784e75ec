"""LLaVA against its own processor and against published sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from qvla.captioning.prompts import IGNORED, decode, encode_images, encode_text
from qvla.errors import QvlaError
from qvla.methods.recipe import fields_of
from qvla.methods.registry import METHODS
from qvla.models.checkpoint import read_config
from qvla.models.families import built_in, family_of
from tests.support.adapted import randomise
from tests.support.tiny import PROMPTS

SUFFIXES = ["many planes in the airport .", "a river ."]


@pytest.fixture(scope="module")
def processor(tiny_llava: Path):
    return AutoProcessor.from_pretrained(tiny_llava)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 90, 3), np.uint8)
    sizes = [(90, 60), (31, 70)]
    return [Image.fromarray(one).resize(size) for one, size in zip(pixels, sizes, strict=True)]


def count(hidden: int, width: int, layers: int) -> int:
    """LLaVA-1.5 by hand: CLIP ViT-L/14 at 336 pixels, two linear layers, Llama, 32,064 tokens."""
    seen, seen_width, depth = 1024, 4096, 24
    embeddings = 3 * 14 * 14 * seen + seen + (24 * 24 + 1) * seen
    attention, mlp = 4 * (seen**2 + seen), 2 * seen * seen_width + seen_width + seen
    vision = embeddings + depth * (attention + mlp + 2 * 2 * seen) + 2 * 2 * seen
    projector = seen * hidden + hidden + hidden**2 + hidden
    text = layers * (4 * hidden**2 + 3 * hidden * width + 2 * hidden) + hidden
    return vision + projector + text + 2 * 32064 * hidden


def test_the_built_in_models_have_the_published_sizes() -> None:
    seven, thirteen = (
        built_in()[name]() for name in ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf")
    )
    family = family_of(seven)
    assert family is family_of(thirteen) and family.image_tokens(seven) == 576
    assert family.skeleton(seven).num_parameters() == 7_063_427_072 == count(4096, 11008, 32)
    assert family.skeleton(thirteen).num_parameters() == 13_351_494_656 == count(5120, 13824, 40)


def test_a_prompt_is_the_processors_own(processor, photos) -> None:
    """A caption in the words of LLaVA's own training; any other text as it is."""
    texts = [PROMPTS["llava"], "USER: <image>\nIs this a river? ASSISTANT:"]
    theirs = processor(
        images=photos, text=texts, padding=True, padding_side="left", return_tensors="pt"
    )
    ours = encode_text(processor, ["caption en", "Is this a river?"])
    assert ours.keys() == {"input_ids", "attention_mask"}
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    assert torch.equal(encode_images(processor, photos), theirs["pixel_values"])


def test_only_the_answer_carries_labels(processor, photos) -> None:
    ours = encode_text(processor, ["caption en", "describe"], SUFFIXES)
    texts = [PROMPTS["llava"], "USER: <image>\ndescribe ASSISTANT:"]
    for row, (prompt, answer) in enumerate(zip(texts, SUFFIXES, strict=True)):
        own = {"images": photos[row], "return_tensors": "pt"}
        whole = processor(text=f"{prompt} {answer}<eos>", **own)["input_ids"][0].tolist()
        begin = processor(text=prompt, **own)["input_ids"].shape[1]
        padding = ours["input_ids"].shape[1] - len(whole)
        assert ours["input_ids"][row].tolist() == [*whole, *[0] * padding]
        due = [IGNORED] * begin + whole[begin:] + [IGNORED] * padding
        assert ours["labels"][row].tolist() == due
    assert ours["attention_mask"].sum(1)[0] > ours["attention_mask"].sum(1)[1]
    answers = ours["labels"].masked_fill(ours["labels"] == IGNORED, 0)
    assert decode(processor, answers) == SUFFIXES


@pytest.mark.parametrize("token", ["<image>", "<bos>", "<eos>"])
def test_a_token_of_the_layout_is_refused(processor, token: str) -> None:
    with pytest.raises(QvlaError, match=token):
        encode_text(processor, ["caption en"], [f"a {token} river"])


@pytest.mark.parametrize(
    ("taken", "depth"), [(-2, 2), (-1, 3), (2, 2), (1, 1), ([-3, -2], 2), ([1, 3], 3)]
)
def test_the_tower_is_as_deep_as_its_features_are_taken(
    taken: int | list[int], depth: int, tiny_llava: Path
) -> None:
    config = read_config(tiny_llava, tiny_llava)
    config.vision_feature_layer = taken
    assert family_of(config).places(config).vision.depth == depth


@pytest.mark.parametrize("name", [name for name in METHODS if name != "full"])
def test_all_that_a_method_puts_into_both_towers_gets_a_gradient(
    name: str, tiny_llava: Path, photos: list[Image.Image], processor
) -> None:
    """The last layer of the vision tower is computed and thrown away: nothing goes there."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava)
    method, places = METHODS[name], family_of(model.config).places(model.config)
    given = {"towers": "both"} if "towers" in method.fields else {}
    adapter = method.config(fields_of(method, **given), places)
    model = get_peft_model(model, adapter)
    randomise(model, "default", seed=1)
    batch = encode_text(processor, ["caption en"] * 2, SUFFIXES)
    model(**batch, pixel_values=encode_images(processor, photos)).loss.backward()
    trained = {own: one for own, one in model.named_parameters() if one.requires_grad}
    still = {own for own, one in trained.items() if one.grad is None or not one.grad.any()}
    assert still == set()
    if given:
        seen = {own.split("encoder.layers.")[1][0] for own in trained if "encoder.layers" in own}
        assert seen == {"0", "1"}
