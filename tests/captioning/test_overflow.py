"""float16 on cards without bfloat16, and float32 where a model's activations overflow it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from qvla.captioning.desk import greedy
from qvla.captioning.engine import Decoding, caption
from qvla.captioning.lineup import Lineup
from qvla.captioning.overflow import OVERFLOWED
from qvla.captioning.prompts import CAPTION_PREFIX
from qvla.models import backbone as backbones
from qvla.models import nf4
from qvla.models.backbone import Precision, computing_in, load_backbone
from qvla.ui.compare.comparison import lineup_panes
from qvla.ui.pane import PaneState
from qvla.ui.panes import render_panes
from tests.support.alone import Alone, photos
from tests.support.serving import add_adapters
from tests.support.tiny import build_tiny

SHORT = Decoding(max_new_tokens=10)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_adapters(build_tiny(tmp_path_factory.mktemp("half")))


@pytest.fixture(scope="module")
def large(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a layer whose activations reach far beyond what float16 holds."""
    folder = tmp_path_factory.mktemp("large")
    model = PaliGemmaForConditionalGeneration.from_pretrained(checkpoint)
    with torch.no_grad():
        mlp = model.model.language_model.layers[1].mlp
        mlp.gate_proj.weight *= 300
        mlp.up_proj.weight *= 300
    model.save_pretrained(folder)
    PaliGemmaProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def lineup(folder: Path, precision: str, *variants: str) -> Lineup:
    adapters = {
        name: folder / place
        for name, place in (("adapter", "adapter"), ("nf4_adapter", "qvla"))
        if (folder / place).is_dir()
    }
    return Lineup.load(
        folder, **adapters, precision=precision, device="cpu", variants=variants or ("base",)
    )


@pytest.mark.parametrize(("has_it", "computes"), [(True, torch.bfloat16), (False, torch.float16)])
def test_quantised_layers_compute_in_what_the_card_has(
    monkeypatch: pytest.MonkeyPatch, has_it: bool, computes: torch.dtype
) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it)
    assert computing_in(Precision.NF4, cuda) is computes
    assert computing_in(Precision.INT8, cuda) is computes
    assert computing_in(Precision.NF4, cuda, for_training=True) is torch.bfloat16
    assert computing_in(Precision.INT8, torch.device("cpu")) is torch.bfloat16


def test_nf4_says_the_same_in_float32_as_in_bfloat16(tiny_checkpoint: Path) -> None:
    """But for near ties: bfloat16 moves these logits by a few hundredths."""
    alone, images = Alone(tiny_checkpoint, nf4=True), photos(16)
    said = []
    for compute in (torch.bfloat16, torch.float32):
        held = load_backbone(tiny_checkpoint, "nf4", device="cpu", compute=compute)
        said.append(greedy(held, held.model, images, CAPTION_PREFIX, 8))
    tied = [image for image, one, other in zip(images, *said, strict=True) if one != other]
    assert len(tied) < len(images) / 2
    assert all(alone.margin(image) < 0.1 for image in tied)


def test_float16_says_what_float32_says(checkpoint: Path) -> None:
    half, whole = (lineup(checkpoint, name, "base", "adapter") for name in ("fp16", "fp32"))
    assert half.shared("base").loaded.model.dtype is torch.float16
    assert half.variant("base").precision == "fp16" and half.variant("base").remark == ""
    assert 2 * half.shared("base").weight_bytes() == whole.shared("base").weight_bytes()
    images = photos(3)
    for ours, due in zip(
        caption(half, images, ["base", "adapter"], SHORT),
        caption(whole, images, ["base", "adapter"], SHORT),
        strict=True,
    ):
        assert {name: one.text for name, one in ours.items()} == {
            name: one.text for name, one in due.items()
        }


def test_a_model_that_overflows_is_held_in_float32_and_says_so(
    large: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        fallen = lineup(large, "fp16")
    variant = fallen.variant("base")
    assert (variant.precision, variant.remark) == ("fp32", OVERFLOWED)
    assert "layers.1.mlp" in caplog.text and "float32" in caplog.text
    [ours], [due] = (
        caption(one, photos(1), decoding=SHORT, variants=["base"])
        for one in (fallen, lineup(large, "fp32"))
    )
    assert ours["base"].text == due["base"].text
    pane = render_panes(lineup_panes(fallen, ["base"], PaneState.IDLE, ""))
    assert "FP32" in pane and OVERFLOWED in pane


@pytest.mark.parametrize("overflows", [False, True])
def test_nf4_computes_in_float16_or_where_that_overflows_in_float32(
    checkpoint: Path, large: Path, monkeypatch: pytest.MonkeyPatch, overflows: bool
) -> None:
    monkeypatch.setattr(backbones, "lacks_bf16", lambda device: True)
    folder = large if overflows else checkpoint
    held = Lineup.load(folder, nf4_adapter=checkpoint / "qvla", device="cpu", variants=["qvla"])
    due = torch.float32 if overflows else torch.float16
    model = held.shared("qvla").loaded.model
    assert {layer.compute_dtype for _, layer in nf4.layers(model)} == {due}
    assert held.variant("qvla").precision == "nf4"
    assert held.variant("qvla").remark == (OVERFLOWED if overflows else "")
    [said] = caption(held, photos(1), ["qvla"], SHORT)
    assert said["qvla"].tokens and said["qvla"].log_probability > -100
