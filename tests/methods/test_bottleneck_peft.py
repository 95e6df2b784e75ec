"""What PEFT promises of every method, kept by bottleneck adapters: save, load, switch, count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from qvla.methods.bottleneck import (
    AdapterCount,
    BottleneckConfig,
    BottleneckError,
    count_parameters,
)
from tests.support.adapted import PRECISIONS, adapted, load, logits, make_inputs, randomise
from tests.support.tiny import build_tiny


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("train_norms", [False, True])
def test_save_and_load(
    precision: str, train_norms: bool, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = adapted(load(tiny_checkpoint, precision), train_norms=train_norms, layers=[0, 2])
    batch = make_inputs(tiny_checkpoint, 2, model.dtype)
    expected = logits(model, batch)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(tiny_checkpoint, precision), tmp_path, "caption")
    assert torch.equal(logits(again, batch), expected)
    config = again.peft_config["caption"]
    assert isinstance(config, BottleneckConfig)
    assert (config.layers, config.sites) == ([0, 2], ["attention", "mlp"])
    assert not any(parameter.requires_grad for parameter in again.parameters())
    # bitsandbytes unpacks NF4 weights for saving, with a loss; the model must not be touched by it.
    assert torch.equal(logits(model, batch), expected)


def test_load_without_initial_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = adapted(load(tiny_checkpoint), train_norms=True)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(tiny_checkpoint), tmp_path, low_cpu_mem_usage=True)
    batch = make_inputs(tiny_checkpoint, 1)
    assert torch.equal(logits(again, batch), logits(model, batch))


@pytest.mark.parametrize("train_norms", [False, True])
def test_the_files_hold_the_adapter_alone(
    train_norms: bool, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = adapted(load(tiny_checkpoint), "default", "other", train_norms=train_norms)
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    weights = load_file(tmp_path / "adapter_model.safetensors")
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {n.replace(".default.", ".") for n in trained} == set(weights)
    assert all(torch.equal(p, weights[n.replace(".default.", ".")]) for n, p in trained.items())
    assert len(weights) == 6 * 4 + (6 if train_norms else 0)
    assert sum(w.numel() for w in weights.values()) == count_parameters(model).total
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "BOTTLENECK"
    assert config["reduction_factor"] == 16 and config["train_norms"] is train_norms
    assert PeftConfig.from_pretrained(tmp_path).activation == "silu"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("train_norms", [False, True])
def test_switch_disable_delete_unload(
    precision: str, train_norms: bool, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    base = load(tiny_checkpoint, precision)
    batch = make_inputs(tiny_checkpoint, 2, base.dtype)
    plain = logits(base, batch)
    model = adapted(base, "one", train_norms=train_norms)
    model.save_pretrained(tmp_path)
    one = logits(model, batch)
    assert (one - plain).abs().max() > 0.1

    model.add_adapter("two", BottleneckConfig(reduction_factor=8, train_norms=train_norms))
    randomise(model, "two", 9)
    assert torch.equal(logits(model, batch), one), "an added adapter is not active"
    model.set_adapter("two")
    two = logits(model, batch)
    assert (two - one).abs().max() > 0.1
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), plain)
    assert torch.equal(logits(model, batch), two)

    model.load_adapter(tmp_path / "one", "three")
    model.set_adapter("three")
    assert torch.equal(logits(model, batch), one)
    model.set_adapter("one")
    model.delete_adapter("two")
    assert torch.equal(logits(model, batch), one)
    with pytest.raises(BottleneckError, match="no bottleneck adapter 'two': loaded are one, three"):
        count_parameters(model, "two")

    bare = model.unload()
    assert torch.equal(logits(bare, batch), plain)
    assert not [name for name, _ in bare.named_modules() if "bottleneck" in name]


def test_swapping_an_adapter_by_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    adapted(load(tiny_checkpoint), seed=40).save_pretrained(tmp_path)
    model = adapted(load(tiny_checkpoint), "kept", "swapped")
    batch = make_inputs(tiny_checkpoint, 3)
    names = ["kept", "swapped", "__base__"]
    before = logits(model, batch, adapter_names=names)
    model.delete_adapter("swapped")
    model.load_adapter(tmp_path, "swapped")
    after = logits(model, batch, adapter_names=names)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    alone = logits(PeftModel.from_pretrained(load(tiny_checkpoint), tmp_path), batch)
    torch.testing.assert_close(after[1], alone[1], rtol=0, atol=1e-4)


def test_merging_is_refused_and_harms_nothing(tiny_checkpoint: Path) -> None:
    model = adapted(load(tiny_checkpoint), train_norms=True)
    expected = logits(model, make_inputs(tiny_checkpoint, 1))
    layer = model.get_base_model().model.language_model.layers[0].self_attn.o_proj
    for merge in (model.merge_and_unload, model.merge_adapter, model.unmerge_adapter, layer.merge):
        with pytest.raises(BottleneckError, match=r"cannot be merged .* non-linearity"):
            merge()
    assert torch.equal(logits(model, make_inputs(tiny_checkpoint, 1)), expected)


def test_only_the_active_adapter_is_trainable(tiny_checkpoint: Path) -> None:
    model = adapted(load(tiny_checkpoint), "one", "two", train_norms=True)

    def trainable() -> set[str]:
        return {name.split(".")[-2 if "norm" in name else -3]
                for name, p in model.named_parameters() if p.requires_grad}  # fmt: skip

    assert trainable() == {"one"}
    model.set_adapter("two")
    assert trainable() == {"two"}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == (
        count_parameters(model, "two").total
    )
    with pytest.raises(BottleneckError, match="Only one bottleneck adapter"):
        model.base_model.set_adapter(["one", "two"])


def test_full_size_counts() -> None:
    """The report's Table I, from paligemma-3b-pt-224's sizes without a weight in memory."""
    text = GemmaConfig(
        vocab_size=257216, hidden_size=2048, intermediate_size=16384, num_hidden_layers=18,
        num_attention_heads=8, num_key_value_heads=1, head_dim=256,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
        patch_size=14, image_size=224, projection_dim=2048, vision_use_head=False,
    )  # fmt: skip
    config = PaliGemmaConfig(text_config=text, vision_config=vision, projection_dim=2048)
    with torch.device("meta"):
        base = PaliGemmaForConditionalGeneration(config)
    assert sum(p.numel() for p in base.parameters()) == 2_923_466_480
    model = get_peft_model(base, BottleneckConfig())
    assert count_parameters(model) == AdapterCount(adapters=18_952_704, norms=0, sites=36)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 18_952_704
    assert not [n for n, p in model.named_parameters() if p.requires_grad and "vision" in n]
    model.add_adapter("normed", BottleneckConfig(train_norms=True))
    assert count_parameters(model, "normed") == AdapterCount(18_952_704, 36 * 2048, 36)
    normed = {n.split(".bottleneck")[0] for n, _ in model.named_parameters() if "_norm.n" in n}
    place = "base_model.model.model.language_model."
    assert f"{place}norm" in normed and f"{place}layers.0.input_layernorm" not in normed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "sine"}, "Unknown activation 'sine': choose one of silu"),
        ({"sites": ["attention", "vision"]}, "sites attention, mlp; found 'vision'"),
        ({"sites": []}, "sites attention, mlp; found none"),
        ({"layers": []}, "one or more indices"),
        ({"layers": [-1]}, "counted from 0"),
        ({"reduction_factor": 0}, "whole number of at least 1, not 0"),
        ({"reduction_factor": 2.5}, "whole number of at least 1, not 2.5"),
        ({"dropout": 1.0}, "less than 1, not 1.0"),
        ({"init_std": -1.0}, "at least 0, not -1.0"),
    ],
)
def test_refuses_a_nonsense_configuration(options: dict, message: str) -> None:
    with pytest.raises(BottleneckError, match=message):
        BottleneckConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction_factor": 65}, "65 leaves no width at a hidden size of 64: .* at most 64"),
        ({"layers": [0, 3]}, "no decoder layer 3: choose layers from 0 to 2"),
    ],
)
def test_refuses_what_does_not_fit_before_touching_the_model(
    options: dict, message: str, tiny_checkpoint: Path
) -> None:
    base = load(tiny_checkpoint)
    with pytest.raises(BottleneckError, match=message):
        get_peft_model(base, BottleneckConfig(**options))
    assert not [name for name, _ in base.named_modules() if "base_layer" in name]


@pytest.mark.parametrize("name", ["mlp", "up", "__base__", "0"])
def test_refuses_a_name_that_occurs_inside_the_model(name: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(BottleneckError, match="cannot be called"):
        get_peft_model(load(tiny_checkpoint), BottleneckConfig(), name)


def test_refuses_a_model_without_the_language_decoder() -> None:
    text = GemmaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=32,
    )  # fmt: skip
    with pytest.raises(BottleneckError, match="GemmaForCausalLM has no language decoder beside"):
        get_peft_model(GemmaForCausalLM(text), BottleneckConfig())


def test_refuses_weights_that_do_not_fit(tiny_checkpoint: Path, tmp_path: Path) -> None:
    wide = build_tiny(tmp_path / "wide", hidden=128)
    adapted(load(wide)).save_pretrained(tmp_path / "other")
    with pytest.raises(BottleneckError, match="made for another size"):
        PeftModel.from_pretrained(load(tiny_checkpoint), tmp_path / "other")

    model = adapted(load(tiny_checkpoint))
    model.save_pretrained(tmp_path / "own")
    file = tmp_path / "own" / "adapter_model.safetensors"
    weights = load_file(file)
    extra = {**weights, "base_model.model.lm_head.weight": torch.zeros(2, 2)}
    save_file(extra, file)
    with pytest.raises(BottleneckError, match=r"no place for, such as .*lm_head"):
        PeftModel.from_pretrained(load(tiny_checkpoint), tmp_path / "own")
    weights.popitem()
    save_file(weights, file)
    with pytest.raises(BottleneckError, match="incomplete, 1 of 24"):
        PeftModel.from_pretrained(load(tiny_checkpoint), tmp_path / "own")


def test_other_methods_of_peft_still_work(tiny_checkpoint: Path) -> None:
    model = get_peft_model(load(tiny_checkpoint), LoraConfig(r=2, target_modules=["q_proj"]))
    assert model.peft_config["default"].peft_type == "LORA"
