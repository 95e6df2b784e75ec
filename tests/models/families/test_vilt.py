"""ViLT: its size, its places, and what is not known of it."""

from __future__ import annotations

import pytest
import torch
import transformers

from qvla.errors import QvlaError
from qvla.models.families import built_in, family_of
from qvla.models.params import report
from qvla.planning.explorer import explore
from qvla.planning.planner import plan

NAME = "dandelin/vilt-b32-finetuned-vqa"


def count(wide: int = 768, inner: int = 3072, layers: int = 12, answers: int = 3129) -> int:
    """ViLT-B/32 by hand: BERT's words and places, patches of 32 pixels at 384, one transformer."""
    norm, square = 2 * wide, wide**2 + wide
    words = (30522 + 40 + 2) * wide + norm
    patches = 3 * 32 * 32 * wide + wide + wide + (12 * 12 + 1) * wide + 2 * wide
    layer = 4 * square + wide * inner + inner + inner * wide + wide + 2 * norm
    classifier = 2 * (square - wide) + 2 * wide + 4 * wide + 2 * wide * answers + answers
    return words + patches + layers * layer + norm + square + classifier


def test_the_built_in_model_has_the_size_that_transformers_makes() -> None:
    with torch.device("meta"):
        due = transformers.ViltForQuestionAnswering(built_in()[NAME]())
    sizes = sum(parameter.numel() for _, parameter in due.named_parameters())
    counted = report(NAME)
    assert counted["full_params"] == sizes == count() == 117_588_537
    assert sum(counted["parts"].values()) == sizes and "other" not in counted["parts"]
    assert counted["adapter_params"] == 12 * 3 * 16 * (768 + 768)


def test_an_exploration_lights_its_one_transformer_and_plans_no_memory() -> None:
    found = explore(NAME, "lora", lora_targets=["query", "value"])
    assert [(tower.title, tower.layers) for tower in found.towers] == [("Transformer", 12)]
    assert found.train_bytes is None and found.serve_bytes is None
    assert found.trainable_params == 12 * 2 * 16 * (768 + 768)
    with pytest.raises(QvlaError, match="memory of a ViLT cannot be planned"):
        plan(NAME)
    with pytest.raises(QvlaError, match="no vision tower apart"):
        explore(NAME, "lora", lora_targets=["query"], towers="both")


def test_every_parameter_is_of_a_part() -> None:
    config = built_in()[NAME]()
    family = family_of(config)
    names = [name for name, _ in family.skeleton(config).named_parameters()]
    assert all(name.startswith(tuple(family.parts)) for name in names)
