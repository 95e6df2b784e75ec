"""Counts against plain sums over tensors and over what is written to disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from qvla.methods.bottleneck import BottleneckConfig
from qvla.models.backbone import Precision, load_backbone
from qvla.models.footprint import census, weight_bytes


def load(folder: Path, precision: Precision, **options):
    return load_backbone(folder, precision, device="cpu", **options).model


@pytest.mark.parametrize(("precision", "width"), [(Precision.FP32, 4), (Precision.BF16, 2)])
def test_float_models_are_counted_by_part(
    tiny_checkpoint: Path, precision: Precision, width: int
) -> None:
    saved = load_file(tiny_checkpoint / "model.safetensors")  # tied weights are stored once
    due = {"vision_tower": 0, "projector": 0, "language_model": 0, "embeddings": 0}
    for name, tensor in saved.items():
        part = next(
            part
            for sign, part in (
                ("embed_tokens", "embeddings"),
                ("vision_tower", "vision_tower"),
                ("multi_modal_projector", "projector"),
                ("language_model", "language_model"),
            )
            if sign in name
        )
        due[part] += tensor.numel()
    model = load(tiny_checkpoint, precision)
    counts = census(model)
    assert dict(counts.parameters) == due
    assert dict(counts.part_bytes) == {part: width * count for part, count in due.items()}
    assert dict(counts.elements) == {f"{'b' * (width == 2)}float{8 * width}": sum(due.values())}
    assert counts.quantisation_bytes == 0
    assert weight_bytes(model) == width * sum(due.values())


def test_an_untied_head_is_counted_too(tiny_checkpoint: Path) -> None:
    model = load(tiny_checkpoint, Precision.FP32)
    tied = census(model).parameters["embeddings"]
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    assert census(model).parameters["embeddings"] == 2 * tied


def test_nf4_bytes_are_those_of_the_saved_tensors(odd_checkpoint: Path, tmp_path: Path) -> None:
    model = load(odd_checkpoint, Precision.NF4, for_training=True, embeddings="bf16")
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    # The file holds each layer's few numbers of state as text; in memory, one is a float32 tensor.
    texts = {name for name in saved if "bitsandbytes__nf4" in name}
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in saved.items()}
    due = sum(size for name, size in sizes.items() if name not in texts) + 4 * len(texts)
    state = sum(size for name, size in sizes.items() if ".weight." in name and name not in texts)

    counts = census(model)
    assert counts.total_bytes == weight_bytes(model) == due
    assert counts.quantisation_bytes == state + 4 * len(texts)
    assert counts.total_parameters == census(load(odd_checkpoint, Precision.BF16)).total_parameters
    weights = [saved[name.split(".weight.")[0] + ".weight"] for name in texts]
    assert counts.elements["uint8"] == sum(weight.numel() for weight in weights)
    assert weight_bytes(model) > model.get_memory_footprint()  # which leaves the state out


def test_embeddings_in_8_bits_are_counted_once_with_their_scales(odd_checkpoint: Path) -> None:
    options = {"for_training": True, "compute": torch.bfloat16}
    before = census(load(odd_checkpoint, Precision.NF4, embeddings="bf16", **options))
    after = census(load(odd_checkpoint, Precision.NF4, embeddings="int8", **options))
    table = load_file(odd_checkpoint / "model.safetensors")[
        "language_model.model.embed_tokens.weight"
    ]
    assert after.parameters == before.parameters
    assert after.elements["int8"] == table.numel()
    assert after.elements["bfloat16"] == before.elements["bfloat16"] - table.numel()
    assert after.elements["uint8"] == before.elements["uint8"]
    assert after.part_bytes["embeddings"] == table.numel() + 2 * len(table)
    assert after.quantisation_bytes == before.quantisation_bytes + 2 * len(table)
    assert after.total_bytes == before.total_bytes - table.numel() + 2 * len(table)


@pytest.mark.skipif(not has_avx512bf16(), reason="needs a processor with AVX-512 BF16")
def test_packed_layers_are_counted_as_they_lie_in_memory(tiny_checkpoint: Path) -> None:
    loaded = census(load(tiny_checkpoint, Precision.NF4, for_training=True))
    packed = census(load(tiny_checkpoint, Precision.NF4))
    # Packing adds one bfloat16 scale for 64 weights and keeps the state that saving needs.
    assert packed.elements == loaded.elements
    assert packed.parameters == loaded.parameters
    added = 2 * (2 * packed.elements["uint8"]) // 64
    assert packed.quantisation_bytes == loaded.quantisation_bytes + added


@pytest.mark.parametrize("precision", list(Precision))
def test_each_adapter_is_counted_for_itself(
    tiny_checkpoint: Path, tmp_path: Path, precision: Precision
) -> None:
    model = load(tiny_checkpoint, precision, for_training=True)
    base = weight_bytes(model)
    model = get_peft_model(model, BottleneckConfig(reduction_factor=4), adapter_name="wide")
    narrow = BottleneckConfig(reduction_factor=16, sites=["mlp"], train_norms=True)
    model.add_adapter("narrow", narrow)
    model.save_pretrained(tmp_path)
    assert weight_bytes(model) == base
    counts = census(model)
    for name in ("wide", "narrow"):
        saved = load_file(tmp_path / name / "adapter_model.safetensors")
        size = sum(tensor.numel() * tensor.element_size() for tensor in saved.values())
        assert weight_bytes(model, name) == base + size
        assert counts.adapters[name] == sum(tensor.numel() for tensor in saved.values())
    assert counts.parameters["adapters"] == sum(counts.adapters.values())
    with pytest.raises(KeyError):
        weight_bytes(model, "other")


def test_lora_is_counted_as_an_adapter(tiny_checkpoint: Path) -> None:
    model = load(tiny_checkpoint, Precision.FP32)
    base = weight_bytes(model)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["o_proj"]))
    # o_proj is 64 x 64 in each of three decoder layers.
    assert weight_bytes(model, "default") == base + 4 * 3 * 4 * (64 + 64)


def test_meta_models_are_counted_like_real_ones(tiny_checkpoint: Path) -> None:
    real = load(tiny_checkpoint, Precision.FP32)
    with torch.device("meta"):
        meta = type(real)(real.config)
    assert census(meta) == census(real)
