from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.activations import get_activation

from qvla.cli.main import main
from qvla.models.adapters import load_adapter
from qvla.models.architectures import PALIGEMMA_3B
from qvla.models.backbone import load_backbone
from qvla.records.reported import reported
from qvla.tuning.adapterhub import AdapterHubError, import_adapterhub
from tests.support.adapted import load, logits, make_inputs

LAYERS, HIDDEN = 3, 64  # of the tiny checkpoint
PLACES = {
    "attention_adapters": ("mh_adapter", "self_attn.o_proj"),
    "output_adapters": ("output_adapter", "mlp.down_proj"),
}
# Of the report's notebook: a PaliGemma of Transformers 4.51, the interface on its decoder.
REPORTED_PREFIX = "language_model.model."

# What `DoubleSeqBnConfig().to_dict()` of adapters 1.2 writes.
DOUBLE_SEQ_BN = {
    "mh_adapter": True,
    "output_adapter": True,
    "reduction_factor": 16,
    "non_linearity": "swish",
    "original_ln_before": False,
    "original_ln_after": True,
    "ln_before": False,
    "ln_after": False,
    "init_weights": "bert",
    "init_weights_seed": None,
    "is_parallel": False,
    "scaling": 1.0,
    "use_gating": False,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "inv_adapter": None,
    "inv_adapter_reduction_factor": None,
    "cross_adapter": False,
    "leave_out": [],
    "dropout": 0.0,
    "phm_layer": False,
    "phm_dim": 4,
    "factorized_phm_W": True,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "factorized_phm_rule": False,
    "phm_c_init": "normal",
    "phm_init_range": 0.0001,
    "learn_phm": True,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "phm_rank": 1,
    "phm_bias": True,
    "stochastic_depth": 0.0,
    "dtype": None,
}

Weights = dict[str, torch.Tensor]


def configuration(**changes: Any) -> dict[str, Any]:
    return {
        "config": DOUBLE_SEQ_BN | {"reduction_factor": 4} | changes,
        "hidden_size": HIDDEN,
        "model_class": "PaliGemmaForConditionalGeneration",
        "model_name": PALIGEMMA_3B,
        "model_type": "paligemma",
        "name": "adapter_lm",
        "version": "adapters.1.2.0",
    }


def made(values: dict[str, Any], prefix: str = REPORTED_PREFIX, layers: int = LAYERS) -> Weights:
    """Weights as the library names them, large enough for no term to hide in a tolerance."""
    fields, hidden = values["config"], values["hidden_size"]
    width = int(hidden // fields["reduction_factor"])
    shapes = {
        "adapter_down.0.weight": (width, hidden),
        "adapter_down.0.bias": (width,),
        "adapter_up.weight": (hidden, width),
        "adapter_up.bias": (hidden,),
    }
    learned = {"learned": 1, "channel": hidden}.get(fields["scaling"])
    if learned:
        shapes["scaling"] = (learned,)
    generator = torch.Generator().manual_seed(11)
    return {
        f"{prefix}layers.{layer}.{place}.adapters.adapter_lm.{part}": 0.3
        * torch.randn(shape, generator=generator)
        for layer in range(layers)
        for place, (field, _) in PLACES.items()
        if fields[field] and layer not in fields["leave_out"]
        for part, shape in shapes.items()
    }


def write(folder: Path, values: dict[str, Any], weights: Weights, file: str) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(values))
    if file.endswith(".bin"):
        torch.save(weights, folder / file)
    else:
        save_file(weights, folder / file)
    return folder


def hooked(model: nn.Module, fields: dict[str, Any], weights: Weights) -> nn.Module:
    """AdapterHub's computation, as its forward hooks do it after the two projections.

    Its `Adapter` without layer norms of its own: `down` with the non-linearity, `up`, the factor,
    and the residual, which is the input. The decoder's own residual comes afterwards.
    """
    activation = get_activation(fields["non_linearity"])
    for layer, module in enumerate(model.model.language_model.layers):
        for place, (_, projection) in PLACES.items():
            part = f"layers.{layer}.{place}.adapters.adapter_lm."
            own = {k.partition(part)[2]: w for k, w in weights.items() if part in k}
            if own:
                site = module.get_submodule(projection)
                site.register_forward_hook(hook(own, activation, fields))
    return model


def hook(own: Weights, activation: Callable, fields: dict[str, Any]) -> Callable:
    factor = own.get("scaling", fields["scaling"])

    def adapt(_: nn.Module, inputs: object, hidden: torch.Tensor) -> torch.Tensor:
        down = activation(hidden @ own["adapter_down.0.weight"].T + own["adapter_down.0.bias"])
        up = down @ own["adapter_up.weight"].T + own["adapter_up.bias"]
        return up * factor + hidden

    return adapt


CASES = {
    "the report's": ({}, REPORTED_PREFIX, "pytorch_adapter.bin"),
    "Transformers 5": ({}, "model.language_model.", "adapter.safetensors"),
    "decoder alone": ({"reduction_factor": 8.0}, "", "pytorch_adapter.safetensors"),
    "attention": ({"output_adapter": False}, REPORTED_PREFIX, "pytorch_adapter.bin"),
    "mlp": ({"mh_adapter": False, "non_linearity": "relu"}, "model.", "model.safetensors"),
    "some layers": ({"leave_out": [1]}, REPORTED_PREFIX, "pytorch_adapter.bin"),
    "last left out": ({"leave_out": [2]}, REPORTED_PREFIX, "pytorch_adapter.bin"),
    "factor": ({"scaling": 2.5, "non_linearity": "gelu"}, "", "pytorch_adapter.bin"),
    "learned": ({"scaling": "learned", "non_linearity": "gelu_new"}, "", "adapter.safetensors"),
    "channel": ({"scaling": "channel", "non_linearity": "tanh"}, "", "adapter.safetensors"),
    "idle fields": (
        {"residual_before_ln": False, "adapter_residual_before_ln": True, "dropout": 0.1},
        REPORTED_PREFIX,
        "pytorch_adapter.bin",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_adapterhub(case: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    changes, prefix, file = CASES[case]
    values = configuration(**changes)
    weights = made(values, prefix)
    out = tmp_path / "made" / "here"
    import_adapterhub(write(tmp_path / "hub", values, weights, file), out)

    assert [path.name for path in out.parent.iterdir()] == ["here"]
    assert {path.name for path in out.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors")
    }
    batch = make_inputs(tiny_checkpoint, 2)
    plain = logits(load(tiny_checkpoint), batch)
    expected = logits(hooked(load(tiny_checkpoint), values["config"], weights), batch)
    assert (expected - plain).abs().max() > 0.1
    found = logits(PeftModel.from_pretrained(load(tiny_checkpoint), out), batch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    backbone = load_backbone(tiny_checkpoint, "fp32", device="cpu")
    backbone.model = load_adapter(backbone, out, "hub").model
    torch.testing.assert_close(logits(backbone.model, batch), found)


def test_a_checkpoint_without_a_version_names_gelu_otherwise(tmp_path: Path) -> None:
    for written, meant in (("gelu", "gelu_new"), ("gelu_orig", "gelu")):
        values = configuration(non_linearity=written)
        del values["version"]
        folder = write(tmp_path / written, values, made(values), "pytorch_adapter.bin")
        done = import_adapterhub(folder, tmp_path / f"{written}-out")
        assert done.activation == {"gelu_new": "gelu_tanh", "gelu": "gelu"}[meant]


def test_the_reports_own_size_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = configuration() | {"config": "double_seq_bn"}
    size = {"config": DOUBLE_SEQ_BN, "hidden_size": 2048}
    weights = {name: one.bfloat16() for name, one in made(size, layers=18).items()}
    folder = write(tmp_path / "hub", values, weights, "pytorch_adapter.bin")
    out = tmp_path / "out"
    arguments = ["import-adapterhub", str(folder), "--out", str(out), "--json"]
    assert main([*arguments, "--model", PALIGEMMA_3B]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["parameters"] == reported()["table_1"]["adapter_parameters"]
    assert (card["hidden_size"], card["width"], len(card["layers"])) == (2048, 128, 18)
    kept = load_file(out / "adapter_model.safetensors")
    assert {one.dtype for one in kept.values()} == {torch.float32}
    config = PeftConfig.from_pretrained(out)
    assert config.base_model_name_or_path == PALIGEMMA_3B
    assert (config.reduction_factor, config.activation, config.layers) == (16, "swish", None)

    assert main(arguments) == 2
    assert capsys.readouterr().err.strip().endswith("is there already; name another folder.")


NORMS = (
    *(f"layers.{layer}.post_attention_layernorm.weight" for layer in range(LAYERS)),
    *(f"layers.{layer}.input_layernorm.weight" for layer in range(1, LAYERS)),
    "norm.weight",
)


def test_trained_norms_come_along_when_they_are_all_there(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    values = configuration()
    weights = made(values)
    torch.manual_seed(4)
    trained = {f"{REPORTED_PREFIX}{name}": torch.randn(HIDDEN) for name in NORMS}
    folder = write(tmp_path / "hub", values, weights | trained, "pytorch_adapter.bin")
    with pytest.raises(AdapterHubError, match="--model"):
        import_adapterhub(folder, tmp_path / "out")
    done = import_adapterhub(folder, tmp_path / "out", str(tiny_checkpoint))
    assert done.train_norms and done.base == tiny_checkpoint.name

    reference = hooked(load(tiny_checkpoint), values["config"], weights)
    with torch.no_grad():
        for name in NORMS:
            norm = reference.model.language_model.get_parameter(name)
            norm.copy_(trained[f"{REPORTED_PREFIX}{name}"])
    batch = make_inputs(tiny_checkpoint, 2)
    found = PeftModel.from_pretrained(load(tiny_checkpoint), tmp_path / "out")
    torch.testing.assert_close(logits(found, batch), logits(reference, batch), atol=1e-4, rtol=1e-4)

    trained.popitem()
    folder = write(tmp_path / "fewer", values, weights | trained, "pytorch_adapter.bin")
    with pytest.raises(AdapterHubError, match=r"see norm\)"):
        import_adapterhub(folder, tmp_path / "none", str(tiny_checkpoint))


REFUSED = {
    "original_ln_before": True,
    "original_ln_after": False,
    "ln_before": True,
    "ln_after": True,
    "is_parallel": True,
    "use_gating": True,
    "phm_layer": True,
    "cross_adapter": True,
    "inv_adapter": "nice",
    "architecture": "lora",
    "residual_before_ln": "post_add",
    "non_linearity": "leakyrelu",
    "scaling": "quadratic",
    "reduction_factor": {"1": 8, "default": 16},
    "mh_adapter": False,  # together with no output_adapter
    "a_field_of_tomorrow": 1,
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_computes_otherwise_is_refused_by_name(field: str, tmp_path: Path) -> None:
    values = configuration()
    weights = made(values)
    values["config"][field] = REFUSED[field]
    if field == "mh_adapter":
        values["config"]["output_adapter"] = False
    refuse(write(tmp_path / "hub", values, weights, "pytorch_adapter.bin"), field)


def refuse(folder: Path, sentence: str, model: str | None = None) -> None:
    out = folder.parent / "refused"
    before = sorted(folder.parent.iterdir())
    with pytest.raises(AdapterHubError, match=sentence) as caught:
        import_adapterhub(folder, out, model)
    assert "\n" not in str(caught.value)
    assert sorted(folder.parent.iterdir()) == before  # nothing half-made lies about


def test_weights_that_do_not_fit_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    values = configuration()
    weights = made(values)
    first = next(iter(weights))

    def folder(label: str, weights: Weights, **changes: Any) -> Path:
        return write(tmp_path / label, values | changes, weights, "pytorch_adapter.bin")

    sparse = {key: one for key, one in weights.items() if "layers.1.output" not in key}
    refuse(folder("hole", sparse), "lacks the adapter for output_adapter in layer 1")
    fewer = {key: one for key, one in weights.items() if key != first}
    refuse(folder("part", fewer), "lacks adapter_down.0.weight for mh_adapter in layer 0")
    extra = {f"{REPORTED_PREFIX}layers.0.attention_adapters.adapters.adapter_lm.gate.bias": 0}
    refuse(folder("gate", weights | dict.fromkeys(extra, torch.ones(1))), "unknown gate.bias")
    narrow = values["config"] | {"reduction_factor": 8}
    refuse(folder("narrow", weights, config=narrow), "by its reduction_factor")
    refuse(folder("name", weights, name="other"), "'other' by its adapter_config.json")
    refuse(folder("nan", weights | {first: weights[first] * torch.nan}), "finite")
    refuse(folder("none", {}), "no weights of bottleneck")
    refuse(folder("head", weights | {"lm_head.weight": torch.ones(1)}), "such as lm_head.weight")
    seeing = made(values, "vision_tower.vision_model.encoder.")
    refuse(folder("sight", weights | seeing), "outside the language decoder")
    refuse(folder("twice", weights | made(values, "model.")), "two adapters at one place")
    refuse(folder("fits", weights), "made for 3 layers of 64", PALIGEMMA_3B)
    fewer = {key: one for key, one in weights.items() if "layers.2" not in key}
    refuse(folder("short", fewer), "made for 2 layers of 64", str(tiny_checkpoint))


def test_folders_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    values = configuration()
    inside = tmp_path / "run" / "adapter_lm"
    inside.parent.mkdir()
    refuse(inside.parent, "has no adapter_config.json")
    write(inside, values, made(values), "pytorch_adapter.bin")
    refuse(inside.parent, "name the folder .*adapter_lm")
    refuse(write(tmp_path / "file", values, {}, "weights.bin"), "has no weights")
    refuse(write(tmp_path / "peft", values | {"peft_type": "LORA"}, {}, "a.bin"), "PEFT adapter")
    refuse(write(tmp_path / "seq", values | {"config": "seq_bn"}, {}, "a.bin"), "'seq_bn'")
    (tmp_path / "taken").write_text("in the way")
    with pytest.raises(AdapterHubError, match="cannot be written"):
        import_adapterhub(inside, tmp_path / "taken" / "out")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.system, (f"touch {self._trace}",)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    values = configuration()
    trace = tmp_path / "trace"
    folder = write(tmp_path / "hub", values, {}, "pytorch_adapter.bin")
    torch.save(made(values) | {"payload": Payload(trace)}, folder / "pytorch_adapter.bin")
    refuse(folder, "could run code and is refused")
    assert not trace.exists()
    torch.load(folder / "pytorch_adapter.bin", weights_only=False)
    assert trace.exists()  # or the test would show nothing

    (folder / "pytorch_adapter.bin").write_bytes(b"no pickle")
    refuse(folder, "cannot be read")
    torch.save([torch.ones(1)], folder / "pytorch_adapter.bin")
    refuse(folder, "other things than named tensors")
