"""The report's own numbers, plain formulas, and what loading really gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from qvla.methods.method import TrainingError
from qvla.models.backbone import Precision, load_backbone
from qvla.models.checkpoint import BackboneError
from qvla.models.footprint import census
from qvla.models.params import report


def test_the_reports_numbers() -> None:
    found = report("google/paligemma-3b-pt-224")
    assert found["full_params"] == 2923466480
    assert found["adapter_params"] == 18952704
    assert found["adapter_sites"] == 36
    assert found["adapter_percent"] == 0.648
    assert found["nf4_packed_elements"] == 1197619200
    assert found["nf4_elements"] == {
        "float16": 527750656,
        "uint8": 1197619200,
        "float32": 477424,
    }
    assert found["weight_bytes"]["nf4_float32_norms"] == 2293356252  # loaded and measured
    assert sum(found["parts"].values()) == 2923466480
    assert json.loads(json.dumps(found)) == found


def test_full_size_against_plain_formulas() -> None:
    found = report()
    vision = 27 * (4 * 1152 * 1152 + 2 * 1152 * 4304)
    text = 18 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 16384)
    linear = vision + 1152 * 2048 + text
    assert found["nf4_packed_elements"] == linear // 2
    assert found["parts"]["embeddings"] == 257216 * 2048
    assert found["adapter_params"] == 36 * (2 * 2048 * 128 + 128 + 2048)
    assert found["weight_bytes"]["fp32"] == 4 * 2923466480
    assert found["weight_bytes"]["bf16"] == 2 * 2923466480
    # One byte a weight instead of two, and one scale of two bytes a token.
    saved = found["weight_bytes"]["nf4"] - found["weight_bytes"]["nf4_int8_embeddings"]
    assert saved == 257216 * 2048 - 2 * 257216
    assert found["weight_bytes"]["nf4_int8_embeddings"] < 1.8e9


def test_adapter_options() -> None:
    found = report(reduction_factor=32, layers=[0, 17], sites=["mlp"], train_norms=True)
    assert found["adapter_sites"] == 2
    assert found["adapter_params"] == 2 * (2 * 2048 * 64 + 64 + 2048)
    assert found["adapter_norm_params"] == 2 * 2048
    with pytest.raises(TrainingError, match="decoder layers 0 to 17"):
        report(layers=[18])


def test_a_folder_is_told_as_it_loads(odd_checkpoint: Path) -> None:
    found = report(odd_checkpoint)
    loaded = census(load_backbone(odd_checkpoint, Precision.FP32, device="cpu").model)
    assert found["full_params"] == loaded.total_parameters
    assert found["parts"] == dict(loaded.parameters)
    assert found["weight_bytes"]["fp32"] == loaded.total_bytes
    options = {"device": "cpu", "for_training": True}
    small, wide = (
        load_backbone(
            odd_checkpoint, Precision.NF4, embeddings="int8", compute=compute, **options
        ).model
        for compute in (torch.bfloat16, torch.float32)
    )
    assert found["weight_bytes"]["nf4_int8_embeddings"] == census(small).total_bytes
    assert found["weight_bytes"]["nf4_int8_float32"] == census(wide).total_bytes
    nf4 = load_backbone(odd_checkpoint, Precision.NF4, embeddings="bf16", **options).model
    assert found["weight_bytes"]["nf4"] == census(nf4).total_bytes
    assert found["nf4_packed_elements"] == census(nf4).elements["uint8"]
    assert found["nf4_quantisation_bytes"] == census(nf4).quantisation_bytes
    assert (
        found["nf4_elements"]["float16"] + found["nf4_elements"]["float32"]
        == (census(nf4).elements["bfloat16"])
    )


def test_weights_are_not_needed(odd_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((odd_checkpoint / "config.json").read_bytes())
    assert report(tmp_path)["full_params"] == report(odd_checkpoint)["full_params"]


def test_unknown_models_are_refused_with_what_is_built_in(tmp_path: Path) -> None:
    for name in ("owner/not-cached", tmp_path, tmp_path / "missing"):
        with pytest.raises(BackboneError, match="Built in: google/paligemma-3b-pt-224"):
            report(name)
