"""Which hardware a Hugging Face Job asks for, and for how long, against sums by hand."""

from __future__ import annotations

from typing import Any

import pytest

from qvla.errors import QvlaError
from qvla.jobs.hf.sizing import Size, size_of
from qvla.methods.recipe import Recipe, make_recipe

MODEL = "google/paligemma-3b-pt-224"
PARAMETERS = 2_923_466_480


def recipe(**values: Any) -> Recipe:
    return make_recipe(**{"model": MODEL, "data": "owner/photos", "output": "none", **values})


def test_the_smallest_gpu_with_room_is_asked_for() -> None:
    assert size_of(recipe()).flavour == "l4x1"
    assert size_of(recipe(method="full")).flavour == "a100-large"
    assert size_of(recipe(device="cpu")).flavour == "cpu-upgrade"
    with pytest.raises(QvlaError, match="no flavour of Jobs with one GPU has them"):
        size_of(recipe(batch_size=10_000))
    with pytest.raises(QvlaError, match="QVLA_JOB_FLAVOR"):
        size_of(recipe(model="Salesforce/blip-vqa-base", method="lora"))


def test_the_time_out_follows_from_the_photos_and_the_gpu() -> None:
    # Forward, and twice as much backward, of 256 image tokens and those of prompt and caption, at
    # a twentieth of what an L4 can do in bfloat16; and an hour.
    seconds = 2 * 3 * PARAMETERS * (256 + 46) * 4000 / (0.05 * 121e12)
    assert size_of(recipe(max_steps=1000)).seconds == 3600 + int(seconds)
    assert size_of(recipe(max_steps=10**9)).seconds == 7 * 24 * 3600
    # How many photos a data set on the hub has, nobody knows yet.
    assert size_of(recipe()).seconds == 12 * 3600
    assert size_of(recipe(), "h200", 0.5) == Size("h200", 1800)
