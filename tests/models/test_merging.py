"""Merging in memory: the weights that come of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qvla.models import merging, nf4
from qvla.models.adapters import load_adapter
from qvla.models.backbone import Precision, load_backbone
from tests.support import peft_zoo


def test_lora_becomes_w_plus_the_scaled_product_and_nothing_else_changes(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = peft_zoo.make("lora in the decoder", tiny_checkpoint, tmp_path / "lora")
    backbone = merging.load_base(tiny_checkpoint, device="cpu", dequantise=False)
    merged = merging.merge(load_adapter(backbone, folder, "merged"))

    values = json.loads((folder / "adapter_config.json").read_text())
    pairs = load_file(folder / "adapter_model.safetensors")
    due = dict(load_backbone(tiny_checkpoint, "fp32", device="cpu").model.named_parameters())
    changed = set()
    for key, low in pairs.items():
        if ".lora_A." in key:
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            high = pairs[key.replace("lora_A", "lora_B")]
            due[name] = due[name] + (values["lora_alpha"] / values["r"]) * (high @ low)
            changed.add(name)
    found = dict(merged.named_parameters())
    assert len(changed) == 12 and found.keys() == due.keys()
    for name, weight in found.items():
        if name in changed:
            torch.testing.assert_close(weight, due[name], atol=1e-6, rtol=1e-6)
        else:
            assert torch.equal(weight, due[name]), name


def test_a_dequantised_base_has_the_numbers_that_its_nf4_layers_stand_for(
    odd_checkpoint: Path,
) -> None:
    held = load_backbone(odd_checkpoint, "nf4", device="cpu", embeddings="bf16", for_training=True)
    due = {f"{name}.weight": nf4.dequantised(layer) for name, layer in nf4.layers(held.model)}
    base = merging.load_base(odd_checkpoint, device="cpu", dequantise=True)
    found = dict(base.model.named_parameters())
    assert base.precision is Precision.FP32 and len(due) == 34
    assert all(torch.equal(found[name], weight.float()) for name, weight in due.items())
    assert {weight.dtype for weight in found.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "untied"),
    [
        ("lora on the embedding", True),
        pytest.param("lora on the head", True, marks=pytest.mark.slow),  # as in tuning/
        ("lora and the whole head", True),
        ("lora and trainable tokens", False),  # which PEFT puts into both
        pytest.param("lora in the decoder", False, marks=pytest.mark.slow),  # as in tuning/
    ],
)
def test_a_tied_head_stays_tied_where_both_are_changed_alike(
    name: str, untied: bool, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = peft_zoo.make(name, tiny_checkpoint, tmp_path / "adapter")
    backbone = merging.load_base(tiny_checkpoint, device="cpu", dequantise=False)
    merged = merging.merge(load_adapter(backbone, folder, "merged"))
    head, embedding = merged.lm_head.weight, merged.get_input_embeddings().weight
    assert (head is not embedding) == untied
    assert merged.config.tie_word_embeddings != untied
    merging.write(backbone, merged, Precision.FP32, tmp_path / "out")
    again = load_backbone(tmp_path / "out", "fp32", device="cpu").model
    assert torch.equal(again.lm_head.weight, head)
    assert torch.equal(again.get_input_embeddings().weight, embedding)
    assert load_backbone(tmp_path / "out", "nf4", device="cpu").model.lm_head is not None


def test_the_precision_of_a_checkpoint_is_what_its_files_hold(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert merging.stored_precision(tiny_checkpoint) is Precision.FP32
    backbone = load_backbone(tiny_checkpoint, "bf16", device="cpu")
    merging.write(backbone, backbone.model, Precision.BF16, tmp_path / "half")
    assert merging.stored_precision(tmp_path / "half") is Precision.BF16
    quantised = load_backbone(
        tiny_checkpoint, "nf4", device="cpu", embeddings="bf16", for_training=True
    )
    quantised.model.save_pretrained(tmp_path / "nf4")
    quantised.processor.save_pretrained(tmp_path / "nf4")
    assert merging.stored_precision(tmp_path / "nf4") is Precision.BF16
    assert merging.is_stored_quantised(tmp_path / "nf4")
    assert not merging.is_stored_quantised(tmp_path / "half")
