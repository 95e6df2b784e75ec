"""Runs that begin with an adapter that is there already."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from qvla.methods.recipe import TrainingError
from qvla.models.adapter_files import AdapterError
from qvla.tuning.training import train
from tests.support.colours import recipe_for
from tests.support.tiny import build_tiny

STILL = {"learning_rate": 1e-30, "weight_decay": 0, "max_steps": 1, "eval_splits": []}


@pytest.mark.parametrize("method", ["adapter", "lora"])
def test_a_run_begins_with_the_weights_it_starts_from(
    method: str, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(recipe_for(tiny_checkpoint, data, first, method=method, max_steps=2))
    card = train(
        recipe_for(tiny_checkpoint, data, second, method=method, start_from=first, **STILL)
    ).card
    assert card["recipe"]["start_from"] == "first"  # the folder's name, not where it lies
    kept = load_file(second / "adapter_model.safetensors")
    weights = load_file(first / "adapter_model.safetensors")
    assert kept.keys() == weights.keys()
    for name, weight in weights.items():
        assert kept[name].equal(weight), name


def test_what_cannot_be_started_from_is_refused_in_one_sentence(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    train(recipe_for(tiny_checkpoint, data, first, max_steps=1, eval_splits=[]))
    wider = build_tiny(tmp_path / "wider", hidden=128)

    def refused(sentence: str, model: Path = tiny_checkpoint, **changes: object) -> None:
        with pytest.raises((TrainingError, AdapterError), match=sentence) as caught:
            train(recipe_for(model, data, tmp_path / "out", **changes))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    refused("makes no adapter", start_from=first, method="full")
    refused("reduction_factor 4 .* to 8: .* needs the same", start_from=first, reduction_factor=8)
    refused("layers None .* needs the same", start_from=first, layers=[0])
    refused("no adapter of the method lora", start_from=first, method="lora")
    refused("is not an adapter", start_from=data)
    refused("a model of another size", model=wider, start_from=first)
