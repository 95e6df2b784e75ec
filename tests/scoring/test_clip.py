"""Regions by CLIP, of a tiny one with random weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from qvla.scoring.answers.clip import DEFAULT, Clip, clip_at_hand, clip_overlaps
from qvla.scoring.checks import ScoringError
from tests.support.alone import photos
from tests.support.tiny_clip import build_tiny_clip

QUESTIONS = ("is there a river", "what color are the roofs", "which scene is this")
ANSWERS = ("yes", "red", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


def expected(folder: Path) -> list[float]:
    """By the model itself: its last layer is given each patch as a sequence of its own, so that no
    patch has another to attend to.
    """
    model: Any = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    tower = model.vision_model
    values = []
    for photo, question, answer in zip(photos(3), QUESTIONS, ANSWERS, strict=True):
        with torch.no_grad():
            pixels = processor.image_processor(photo, return_tensors="pt")["pixel_values"]
            states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][0]
            alone = tower.encoder.layers[-1](states[1:, None], attention_mask=None)
            alone = (alone[0] if isinstance(alone, tuple) else alone)[:, 0]
            patches = model.visual_projection(tower.post_layernorm(alone))
            quarters = []
            for text in (answer, question):
                tokens = processor.tokenizer([text], return_tensors="pt")
                feature = model.text_projection(model.text_model(**tokens).pooler_output)[0]
                near = torch.cosine_similarity(patches, feature[None])
                quarters.append(set(near.topk(math.ceil(len(near) / 4)).indices.tolist()))
        values.append(len(quarters[0] & quarters[1]) / len(quarters[0] | quarters[1]))
    return values


def test_regions_are_the_patches_that_resemble_the_texts_most(folder: Path) -> None:
    found = clip_overlaps(photos(3), QUESTIONS, ANSWERS, Clip(str(folder)))
    assert found == pytest.approx(expected(folder))
    assert len(set(found.tolist())) > 1 and 0 < found.mean() < 1
    same = clip_overlaps(photos(3), QUESTIONS, QUESTIONS, Clip(str(folder)))
    assert same.tolist() == [1, 1, 1]


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ScoringError, match="There is no folder"):
        clip_overlaps(photos(1), ["a"], ["b"], Clip(str(tmp_path / "none")))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ScoringError, match="is no CLIP checkpoint"):
        clip_overlaps(photos(1), ["a"], ["b"], Clip(str(tmp_path)))
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert clip_at_hand() is None
    repository = cache / f"models--{DEFAULT.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "model.safetensors").touch()
    assert clip_at_hand() == Clip()
