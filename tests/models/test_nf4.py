"""NF4 layers against their dequantised weights run by plain PyTorch."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import nn
from torch.nn import functional as F

from qvla.captioning.prompts import encode_images, encode_text
from qvla.models import nf4
from qvla.models.backbone import Precision, load_backbone

avx512 = pytest.mark.skipif(
    not has_avx512bf16(), reason="layers pack only on processors with AVX-512 BF16"
)


def load(folder: Path, **options) -> nn.Module:
    return load_backbone(folder, Precision.NF4, device="cpu", **options).model


def batch(folder: Path, *, suffixes: list[str] | None = None) -> dict[str, torch.Tensor]:
    processor = load_backbone(folder, Precision.BF16, device="cpu").processor
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 256, (30, 40, 3), np.uint8)) for _ in range(2)]
    text = encode_text(processor, ["caption en", "describe"], suffixes)
    return {**text, "pixel_values": encode_images(processor, images).to(torch.bfloat16)}


def plain(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy whose quantised layers are ordinary ones with the dequantised weights."""
    copied = copy.deepcopy(model)
    for name, layer in list(nf4.layers(copied)):
        linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        linear.weight = nn.Parameter(nf4.dequantised(layer), False)
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.detach(), False)
        copied.set_submodule(name, linear)
    return nn.Module.to(copied, dtype)  # Transformers forbids casting what it thinks is quantised


def distance(found: torch.Tensor, due: torch.Tensor) -> float:
    return float((found.float() - due.float()).norm() / due.float().norm())


@avx512
def test_layers_are_packed_where_their_sizes_allow_it(odd_checkpoint: Path) -> None:
    layers = dict(nf4.layers(load(odd_checkpoint)))
    odd = {name for name, layer in layers.items() if not nf4.is_packed(layer)}
    assert odd == {
        f"model.vision_tower.encoder.layers.{layer}.mlp.{name}"
        for layer in range(2)
        for name in ("fc1", "fc2")
    }


@pytest.mark.parametrize("rows", [1, 7, 600])
def test_a_layer_computes_with_its_dequantised_weights(odd_checkpoint: Path, rows: int) -> None:
    loaded = dict(nf4.layers(load(odd_checkpoint, for_training=True)))  # never packed
    torch.manual_seed(0)
    for name, layer in nf4.layers(load(odd_checkpoint)):
        x = torch.randn(rows, layer.in_features, dtype=torch.bfloat16)
        weight = nf4.dequantised(loaded[name]).float()
        due = F.linear(x.float(), weight, None if layer.bias is None else layer.bias.float())
        with torch.no_grad():
            found = layer(x).float()
        assert (found - due).norm() < 0.01 * due.norm(), name
        assert (found - due).abs().max() < 0.1 * due.std(), name


def test_weights_are_nf4_values_of_the_checkpoints_own(tiny_checkpoint: Path) -> None:
    original = load_backbone(tiny_checkpoint, Precision.FP32, device="cpu").model
    for name, layer in nf4.layers(load(tiny_checkpoint)):
        weight = original.get_submodule(name).weight
        error = (nf4.dequantised(layer).float() - weight).abs()
        # The widest gap between NF4 levels is 0.304 of the block's largest weight (QLoRA, app. E).
        largest = weight.abs().reshape(-1, 64).amax(1).repeat_interleave(64).view_as(weight)
        assert (error <= 0.17 * largest).all(), name


def test_logits_are_those_of_dequantised_weights(odd_checkpoint: Path) -> None:
    inputs = batch(odd_checkpoint)
    unpacked = load(odd_checkpoint, for_training=True)
    models = {
        "exact": plain(unpacked, torch.float32),
        "bf16": plain(unpacked, torch.bfloat16),
        "unpacked": unpacked,
        "packed": load(odd_checkpoint),
    }
    with torch.no_grad():
        logits = {name: model(**inputs).logits for name, model in models.items()}
    # bfloat16 alone moves this model's logits by some percent: NF4 may not move them further.
    noise = distance(logits["bf16"], logits["exact"])
    assert noise < 0.2
    assert distance(logits["unpacked"], logits["exact"]) < 1.5 * noise
    assert distance(logits["packed"], logits["exact"]) < 1.5 * noise


@pytest.mark.parametrize("late", [False, True], ids=["loaded for training", "prepared later"])
def test_gradients_after_an_evaluation_are_right(odd_checkpoint: Path, late: bool) -> None:
    inputs = batch(odd_checkpoint, suffixes=["a river in the forest", "planes"])
    base = load(odd_checkpoint, for_training=not late)
    if late:
        with torch.no_grad():
            base(**inputs)
        nf4.prepare_for_training(base)
    # In float32, with the weights that NF4 stands for, the two can be compared to the last digits.
    for _, layer in nf4.layers(base):
        layer.compute_dtype = layer.weight.quant_state.dtype = torch.float32
    nn.Module.float(base)
    inputs["pixel_values"] = inputs["pixel_values"].float()
    due = gradients(plain(base, torch.float32), inputs)
    assert distance(gradients(base, inputs), due) < 1e-3


def gradients(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """All gradients of a LoRA on both towers, taken after an evaluation, in one vector."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(model, config)
    model.eval()
    with torch.no_grad():
        model(**inputs)
    model.train()
    model(**inputs).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 16  # two for each q_proj of both towers and each decoder's down_proj
    return torch.cat([parameter.grad.flatten() for parameter in trained])


@pytest.mark.parametrize("packs", [False, True])
def test_the_processor_decides_what_nf4_computes_in(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    monkeypatch.setattr(nf4, "packs", lambda: packs)
    due = torch.bfloat16 if packs else torch.float32
    for options in ({}, {"for_training": True}):
        model = load(tiny_checkpoint, **options)
        assert {layer.compute_dtype for _, layer in nf4.layers(model)} == {due} == {model.dtype}
    # A table that is not in 8 bits would take four bytes a number.
    assert load(tiny_checkpoint, embeddings="bf16").dtype is torch.bfloat16


def test_both_types_compute_with_the_same_weights(odd_checkpoint: Path) -> None:
    inputs = batch(odd_checkpoint)
    half, whole = (
        load(odd_checkpoint, for_training=True, compute=compute)
        for compute in (torch.bfloat16, torch.float32)
    )
    layers = dict(nf4.layers(half))
    for name, layer in nf4.layers(whole):
        assert torch.equal(layer.weight.data, layers[name].weight.data), name
        assert torch.equal(nf4.dequantised(layer).bfloat16(), nf4.dequantised(layers[name])), name
    exact = plain(whole, torch.float32)
    with torch.no_grad():
        due = exact(**inputs).logits
        noise = distance(half(**inputs).logits, due)
        assert distance(whole(**inputs).logits, due) < 1e-5 < noise < 0.2


@avx512
def test_saving_a_packed_model_saves_what_was_loaded(odd_checkpoint: Path, tmp_path: Path) -> None:
    # Embeddings in 8 bits are not for saving (`int8_embedding`).
    due = load(odd_checkpoint, for_training=True, embeddings="bf16").state_dict()
    model = load(odd_checkpoint, embeddings="bf16")
    inputs = batch(odd_checkpoint)
    with torch.no_grad():
        before = model(**inputs).logits
    for _ in range(2):
        found = model.state_dict()
        assert found.keys() == due.keys()
        assert all(torch.equal(found[key], due[key]) for key in due)
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, before)  # and packs again

    model.save_pretrained(tmp_path)
    load_backbone(odd_checkpoint, Precision.BF16, device="cpu").processor.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path, embeddings="bf16")(**inputs).logits, before)


@avx512
def test_unpacking_restores_every_bit(tiny_checkpoint: Path) -> None:
    due = dict(nf4.layers(load(tiny_checkpoint, for_training=True)))
    model = load(tiny_checkpoint)
    for name, layer in nf4.layers(model):
        assert nf4.is_packed(layer)
        nf4.unpack(layer)
        assert not nf4.is_packed(layer)
        assert torch.equal(layer.weight.data, due[name].weight.data)
        assert torch.equal(layer.weight.quant_state.absmax, due[name].weight.quant_state.absmax)
