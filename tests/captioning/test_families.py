"""Families and precisions in the line-up: each contender against its model loaded alone.

What adapters of every kind do is held in `test_identity`, on PaliGemma; here is what another family
and LLM.int8 could do otherwise.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from qvla.captioning.contenders import Contender
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption, stream
from qvla.captioning.lineup import Lineup
from qvla.models import int8
from qvla.models.footprint import census
from tests.support.alone import LENGTH, Alone, clear_photos
from tests.support.peft_zoo import make
from tests.support.watched import Watched

CASES = [
    *(("llava", "fp32"), ("llava", "nf4"), ("paligemma", "int8")),
    pytest.param(("llava", "int8"), marks=pytest.mark.slow),  # the slowest, of what the rest shows
]
ADAPTERS = {
    "base": None,
    "bottleneck": "bottleneck",
    "seeing": "lora by plain names",  # which is in the vision tower too
}
NEAR = {"fp32": 2e-4, "nf4": 0.05, "int8": 0.05}  # of logits that spread by about 0.4
MARGIN = {"fp32": 1e-4, "nf4": 0.01, "int8": 1e-4}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory):
    """A maker of the adapters of a checkpoint, which makes them once."""
    root = tmp_path_factory.mktemp("adapters")

    @cache
    def made(checkpoint: Path) -> dict[str, Path | None]:
        folder = root / checkpoint.name
        return {
            name: None if kind is None else make(kind, checkpoint, folder / name)
            for name, kind in ADAPTERS.items()
        }

    return made


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def stage(request: pytest.FixtureRequest, adapters):
    family, precision = request.param
    names = {"paligemma": "tiny_checkpoint", "llava": "tiny_llava"}
    checkpoint: Path = request.getfixturevalue(names[family])
    folders = adapters(checkpoint)
    entries = [
        Contender(
            name=name,
            title=name,
            base=str(checkpoint),
            precision=precision,
            adapter=None if folder is None else str(folder),
        )
        for name, folder in folders.items()
    ]
    held: dict[str, Any] = {} if precision == "fp32" else {precision: True}
    alone = {name: Alone(checkpoint, folder, **held) for name, folder in folders.items()}
    return precision, Lineup.of(entries, device="cpu"), alone


def test_every_pane_is_the_model_that_it_names(stage) -> None:
    """In INT8 the rows of a batch share the features that are left in floating point, so there it
    is asked for one row at a time.
    """
    precision, lineup, alone = stage
    photos = clear_photos(alone.values(), 1 if precision == "nf4" else 2, MARGIN[precision])
    due = {name: [one.text(photo) for photo in photos] for name, one in alone.items()}
    assert len({text for texts in due.values() for text in texts}) == len(ADAPTERS) * len(photos)
    greedy = Decoding(max_new_tokens=LENGTH)
    if precision == "int8":
        for name in ADAPTERS:
            said = [caption(lineup, [photo], [name], greedy)[0][name].text for photo in photos]
            assert said == due[name], name
    else:
        answers = caption(lineup, photos, None, greedy)
        for name in ADAPTERS:
            assert [answer[name].text for answer in answers] == due[name], name
        *_, streamed = stream(lineup, photos[0], None, greedy)
        assert {name: one.text for name, one in streamed.items()} == {
            name: texts[0] for name, texts in due.items()
        }
    for name, one in alone.items():
        watched = Watched(max_new_tokens=1)
        caption(lineup, photos[:1], [name], watched)
        [ours] = watched.steps
        assert (ours - first_logits(one, photos[:1])).abs().max() < NEAR[precision], name


def test_views_hold_nothing_but_their_adapters(stage) -> None:
    _, lineup, _ = stage
    shared = lineup.shared("base")
    model = shared.loaded.model
    held = {tensor.data_ptr() for tensor in tensors(model)}
    assert {len(view.adapters) for view in shared.views} == {1}
    for view in shared.views:
        adapters = census(view.model).adapters
        own = [one for one in tensors(view.model) if one.data_ptr() not in held]
        assert sum(one.numel() for one in own) == sum(adapters.values()) > 0
    lineup_bytes = {name: lineup.variant(name).weight_bytes for name in ADAPTERS}
    assert lineup_bytes["base"] == census(model).total_bytes
    assert all(size > lineup_bytes["base"] for name, size in lineup_bytes.items() if name != "base")


def test_beams_are_those_of_the_model_alone(stage) -> None:
    precision, lineup, alone = stage
    if precision != "fp32":
        pytest.skip("near ties between beams fall otherwise in bfloat16")
    photos = clear_photos(alone.values(), 1, MARGIN[precision])
    answers = caption(lineup, photos, None, Decoding(max_new_tokens=LENGTH, num_beams=3))
    for name, one in alone.items():
        due = [one.text(photo, num_beams=3) for photo in photos]
        assert [answer[name].text for answer in answers] == due, name


def tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    found = [*model.parameters(), *model.buffers()]
    return found + [one for _, layer in int8.layers(model) for one in int8.held(layer)]


def first_logits(model: Alone, photos: list[Image.Image]) -> torch.Tensor:
    return torch.cat([model._generate(one).logits[0] for one in photos]).float()
