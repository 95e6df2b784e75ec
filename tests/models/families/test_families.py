"""The families against Transformers: where things lie, what they see, and who is not known."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
    Blip2Config,
    LlavaNextConfig,
)

from qvla.models.errors import BackboneError
from qvla.models.families import families, family_named, family_of, family_of_processor
from qvla.models.families.family import Family

CAPTIONERS = [family for family in families() if family.model_type in ("paligemma", "llava")]


def test_transformers_agrees_on_each_familys_classes() -> None:
    for family in families():
        config = family.config_class()
        assert family_of(config) is family_named(family.model_type) is family
        assert AutoConfig.for_model(family.model_type).__class__ is family.config_class
        model = family.skeleton(config)
        assert type(model) is family.model_class
        only = family in CAPTIONERS
        kind = AutoModelForImageTextToText if only else AutoModelForVisualQuestionAnswering
        with torch.device("meta"):
            theirs = type(kind.from_config(config))
        assert issubclass(family.model_class, theirs)
        assert family.model_class.__name__ == theirs.__name__  # as config.json names it


@pytest.mark.parametrize("family", CAPTIONERS, ids=lambda family: family.model_type)
def test_its_paths_are_where_transformers_finds_the_modules(family: Family) -> None:
    model = family.skeleton(family.config_class())
    assert model.get_submodule(family.decoder) is model.get_decoder()
    assert model.get_submodule(family.embedding) is model.get_input_embeddings()
    assert model.get_submodule(family.head) is model.get_output_embeddings()
    layers = model.get_submodule(family.decoder_layers)
    assert len(layers) == model.config.text_config.num_hidden_layers
    seeing = model.get_submodule(family.tower_layers)
    assert len(seeing) == model.config.vision_config.num_hidden_layers
    placed = [name for name, _ in model.named_parameters() if name.startswith(tuple(family.parts))]
    assert placed == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("family", families(), ids=lambda family: family.model_type)
def test_a_skeleton_takes_no_memory_and_leaves_the_configuration_alone(family: Family) -> None:
    config = family.config_class()
    before = copy.deepcopy(config.to_dict())
    model = family.skeleton(config)
    assert {tensor.device.type for tensor in model.parameters()} == {"meta"}
    getattr(model.config, "text_config", model.config).num_hidden_layers = 1
    assert config.to_dict() == before


def test_image_features_pass_through_its_sight_and_nothing_else(tiny_of_family: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_of_family).eval()
    family = family_of(model.config)
    touched: list[str] = []
    for name, module in model.named_modules():
        own = next(module.parameters(recurse=False), None)
        if own is not None:
            module.register_forward_hook(lambda *_, name=name: touched.append(name))
    side = family.image_side(model.config)
    with torch.no_grad():
        seen = family.image_features(model, torch.randn(2, 3, side, side))
    hidden = model.config.text_config.hidden_size
    assert seen.shape == (2, family.image_tokens(model.config), hidden)
    assert touched and all(name.startswith(family.sight) for name in touched)


def test_features_in_place_of_pixels_give_the_same_logits(tiny_of_family: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_of_family).eval()
    processor = AutoProcessor.from_pretrained(tiny_of_family)
    family = family_of(model.config)
    assert family_of_processor(processor) is family
    side = family.image_side(model.config)
    pixels = torch.randn(2, 3, side, side)
    prompt = family.encode(processor, ["caption en", "describe a river"])
    with torch.no_grad():
        features = family.image_features(model, pixels)
        given = model(**prompt, **family.given_features(features)).logits
        due = model(**prompt, pixel_values=pixels).logits
    assert torch.equal(given, due)


@pytest.mark.parametrize(
    "config", [LlavaNextConfig(), Blip2Config()], ids=lambda one: one.model_type
)
def test_another_family_is_refused_in_a_sentence_that_names_what_is_known(config) -> None:
    with pytest.raises(BackboneError) as raised:
        family_of(config)
    told = str(raised.value)
    assert repr(config.model_type) in told and "PaliGemma (paligemma)" in told
    assert told.count(". ") == 0 and told.endswith(".") and "\n" not in told


def test_what_says_no_type_or_is_no_processor_is_refused_too(tiny_checkpoint: Path) -> None:
    with pytest.raises(BackboneError, match="None"):
        family_named(None)
    tokenizer = AutoProcessor.from_pretrained(tiny_checkpoint).tokenizer
    with pytest.raises(BackboneError, match=type(tokenizer).__name__):
        family_of_processor(tokenizer)


def test_asking_for_the_families_is_light_until_one_is_needed() -> None:
    check = (
        "import sys, qvla.models.families as families;"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
