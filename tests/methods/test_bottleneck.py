"""What a bottleneck adapter computes, against plain PyTorch hooks that know nothing of PEFT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    Gemma2Config,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from qvla.methods.bottleneck import BottleneckConfig, BottleneckError
from tests.support.adapted import PRECISIONS, adapted, load, logits, make_inputs, randomise, row

STATE = "base_model.model."  # PEFT's prefix of every tensor it saves


@contextmanager
def by_hooks(
    base: nn.Module,
    weights: dict[str, torch.Tensor],
    activation: Callable[[torch.Tensor], torch.Tensor] = F.silu,
) -> Iterator[None]:
    """The adapter as the report words it, from its saved tensors alone, on an untouched base."""

    def after_projection(name: str) -> Callable:
        site = f"{STATE}{name}.bottleneck_adapter"
        down = weights[f"{site}.down.weight"], weights[f"{site}.down.bias"]
        up = weights[f"{site}.up.weight"], weights[f"{site}.up.bias"]

        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            o = output.float()
            inner = activation(o @ down[0].T + down[1])
            return (o + inner @ up[0].T + up[1]).to(output.dtype)

        return hook

    def in_place_of_norm(name: str) -> Callable:
        weight = weights[f"{STATE}{name}.bottleneck_norm.weight"]

        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            x = args[0].float()
            scale = torch.sqrt((x * x).mean(-1, keepdim=True) + module.eps)
            return (x / scale * (1 + weight)).to(output.dtype)

        return hook

    handles = []
    for name, module in base.named_modules():
        if f"{STATE}{name}.bottleneck_adapter.down.weight" in weights:
            handles.append(module.register_forward_hook(after_projection(name)))
        elif f"{STATE}{name}.bottleneck_norm.weight" in weights:
            handles.append(module.register_forward_hook(in_place_of_norm(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# The float bases differ from the reference by rounding only. Over NF4 a repacked layer (AVX-512)
# takes its sums in another order, in bfloat16.
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-5, "nf4": 1e-3}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("train_norms", [False, True])
def test_logits_equal_plain_hooks(
    precision: str, train_norms: bool, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = adapted(load(tiny_checkpoint, precision), train_norms=train_norms)
    model.save_pretrained(tmp_path)
    batch = make_inputs(tiny_checkpoint, 2, model.dtype)
    found = logits(model, batch)

    reference = load(tiny_checkpoint, precision)
    plain = logits(reference, batch)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    with by_hooks(reference, weights):
        expected = logits(reference, batch)
    assert (expected - plain).abs().max() > 0.1, "the adapter must matter for this to be a test"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[precision])


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        ({"activation": "relu"}, F.relu),
        ({"activation": "tanh"}, torch.tanh),
        ({"layers": [0, 2]}, F.silu),
        ({"sites": ["mlp"], "reduction_factor": 4}, F.silu),
        ({"sites": ["attention"], "layers": [1], "train_norms": True}, F.silu),
    ],
)
def test_options_equal_plain_hooks(
    options: dict, activation: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = adapted(load(tiny_checkpoint), **options)
    model.save_pretrained(tmp_path)
    reference = load(tiny_checkpoint)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    with by_hooks(reference, weights, activation):
        expected = logits(reference, make_inputs(tiny_checkpoint, 2))
    torch.testing.assert_close(
        logits(model, make_inputs(tiny_checkpoint, 2)), expected, rtol=0, atol=1e-5
    )

    layers = options.get("layers", [0, 1, 2])
    names = {"attention": "self_attn.o_proj", "mlp": "mlp.down_proj"}
    sites = [names[site] for site in options.get("sites", names)]
    assert {name.split(".bottleneck_adapter")[0] for name in weights if "_adapter" in name} == {
        f"{STATE}model.language_model.layers.{layer}.{site}" for layer in layers for site in sites
    }


def test_a_new_adapter_starts_as_the_report_says(tiny_checkpoint: Path) -> None:
    torch.manual_seed(0)
    model = get_peft_model(load(tiny_checkpoint), BottleneckConfig(reduction_factor=1))
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    weights = torch.cat([p.flatten() for n, p in trainable.items() if n.endswith("weight")])
    assert len(weights) == 6 * 2 * 64 * 64
    assert abs(weights.std().item() - 0.02) < 0.0005
    assert abs(weights.mean().item()) < 0.0005
    assert all(not p.any() for n, p in trainable.items() if n.endswith("bias"))


def test_a_new_adapter_starts_from_the_norms_of_the_base(tiny_checkpoint: Path) -> None:
    base = load(tiny_checkpoint)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "language_model" in name and "norm" in name:
                parameter.normal_(0, 0.3)
    batch = make_inputs(tiny_checkpoint, 1)
    plain = logits(base, batch)
    model = get_peft_model(base, BottleneckConfig(train_norms=True, init_std=0.0))
    assert torch.equal(logits(model, batch), plain)


def test_dropout_acts_in_training_only(tiny_checkpoint: Path) -> None:
    model = adapted(load(tiny_checkpoint), dropout=0.5)
    batch = make_inputs(tiny_checkpoint, 1)
    assert torch.equal(logits(model, batch), logits(model, batch))
    model.train()
    assert not torch.allclose(logits(model, batch), logits(model, batch))


MIXES = [
    ["one", "__base__"],
    ["__base__", "one", "two"],
    ["one", "__base__", "two", "one"],
    ["two", "two"],
    ["__base__", "__base__"],
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("train_norms", [False, True])
def test_rows_of_a_mixed_batch_equal_rows_alone(
    precision: str, train_norms: bool, tiny_checkpoint: Path
) -> None:
    base = load(tiny_checkpoint, precision)
    model = adapted(base, "one", "two", train_norms=train_norms)
    for names in MIXES:
        batch = make_inputs(tiny_checkpoint, len(names), model.dtype)
        mixed = logits(model, batch, adapter_names=names)
        for index, name in enumerate(names):
            if name == "__base__":
                with model.disable_adapter():
                    alone = logits(model, row(batch, index))
            else:
                model.set_adapter(name)
                alone = logits(model, row(batch, index))
            # In bfloat16 a batch's sums may be taken in another order than one row's.
            tolerance = 1e-4 if precision == "fp32" else 0.1
            torch.testing.assert_close(mixed[index], alone[0], rtol=0, atol=tolerance)
    model.set_adapter("one")
    assert (logits(model, batch) - mixed).abs().max() > 0.3, "nothing stays mixed afterwards"


def test_an_adapter_may_train_norms_that_its_neighbour_leaves(tiny_checkpoint: Path) -> None:
    model = get_peft_model(load(tiny_checkpoint), BottleneckConfig(train_norms=True), "normed")
    model.add_adapter("plain", BottleneckConfig(layers=[1]))
    randomise(model, "normed", 1)
    randomise(model, "plain", 2)
    model.eval()
    batch = make_inputs(tiny_checkpoint, 3)
    mixed = logits(model, batch, adapter_names=["plain", "normed", "__base__"])
    for index, name in enumerate(["plain", "normed"]):
        model.set_adapter(name)
        torch.testing.assert_close(mixed[index], logits(model, batch)[index], rtol=0, atol=1e-4)
    torch.testing.assert_close(mixed[2], logits(load(tiny_checkpoint), batch)[2], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "decoding",
    [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}],
    ids=["greedy", "beams", "sequences"],
)
def test_mixed_generation_equals_generation_alone(decoding: dict, tiny_checkpoint: Path) -> None:
    model = adapted(load(tiny_checkpoint), "one", "two", train_norms=True)
    names = ["two", "__base__", "one", "two"]
    batch = make_inputs(tiny_checkpoint, len(names))
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **decoding}
    mixed = model.generate(**batch, adapter_names=names, **options)
    many = decoding.get("num_return_sequences", 1)
    seen = set()
    for index, name in enumerate(names):
        if name == "__base__":
            alone = load(tiny_checkpoint).generate(**row(batch, index), **options)
        else:
            model.set_adapter(name)
            alone = model.generate(**row(batch, index), **options)
        assert torch.equal(mixed[index * many : (index + 1) * many], alone)
        seen.add(tuple(alone[0, -6:].tolist()))
    assert len(seen) > 1, "the rows must differ for this to be a test"


def test_a_failed_call_leaves_nothing_mixed(tiny_checkpoint: Path) -> None:
    model = adapted(load(tiny_checkpoint), "one")
    batch = make_inputs(tiny_checkpoint, 2)
    expected = logits(model, batch)
    broken = {**batch, "pixel_values": batch["pixel_values"][:, :2]}
    with pytest.raises((RuntimeError, ValueError)):
        model(**broken, adapter_names=["__base__", "__base__"])
    assert torch.equal(logits(model, batch), expected)


def test_refuses_names_that_cannot_be_honoured(tiny_checkpoint: Path) -> None:
    model = adapted(load(tiny_checkpoint), "one")
    batch = make_inputs(tiny_checkpoint, 2)
    with pytest.raises(BottleneckError, match=r"no adapter 'three'.*one, __base__"):
        model(**batch, adapter_names=["one", "three"])
    with pytest.raises(BottleneckError, match="2 rows but adapter_names has 1"):
        model.generate(**batch, adapter_names=["one"])
    with pytest.raises(BottleneckError, match="a list with one name"):
        model(**batch, adapter_names="one")
    model.train()
    with pytest.raises(BottleneckError, match="only for inference"):
        model(**batch, adapter_names=["one", "__base__"])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("checkpointing", ["none", "before", "after"])
def test_gradients_reach_every_adapter_weight_and_nothing_else(
    precision: str, checkpointing: str, tiny_checkpoint: Path
) -> None:
    base = load(tiny_checkpoint, precision)
    for module in base.modules():  # gradients through a layer repacked for AVX-512 are wrong
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if checkpointing == "before":
        base.activation_checkpointing_enable()
    model = adapted(base, train_norms=True)
    if checkpointing == "after":
        model.activation_checkpointing_enable()
    model.train()
    batch = make_inputs(tiny_checkpoint, 2, model.dtype)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        if "bottleneck_adapter" in name or "bottleneck_norm" in name:
            assert parameter.dtype == torch.float32, "float32 master weights under any base"
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert not parameter.requires_grad and parameter.grad is None, name


@pytest.mark.parametrize(
    "part", ["o_proj.bottleneck_adapter", "down_proj.bottleneck_adapter", "bottleneck_norm"]
)
def test_gradient_equals_finite_differences(part: str, tiny_checkpoint: Path) -> None:
    model = adapted(load(tiny_checkpoint), train_norms=True)
    batch = make_inputs(tiny_checkpoint, 1)

    def loss() -> torch.Tensor:
        return model(**batch, labels=batch["input_ids"]).loss

    weight = next(p for n, p in model.named_parameters() if part in n)
    (gradient,) = torch.autograd.grad(loss(), weight)
    index, step = gradient.abs().argmax(), 0.005
    with torch.no_grad():
        weight.view(-1)[index] += step
        above = loss().item()
        weight.view(-1)[index] -= 2 * step
        slope = (above - loss().item()) / (2 * step)
    assert gradient.view(-1)[index].item() == pytest.approx(slope, rel=0.02)


def test_output_keeps_the_type_of_the_wrapped_layer(tiny_checkpoint: Path) -> None:
    model = adapted(load(tiny_checkpoint, "bf16"), "one", "two", train_norms=True)
    layer = model.get_base_model().model.language_model.layers[0]
    x = torch.randn(2, 3, 64, dtype=torch.bfloat16)
    assert layer.self_attn.o_proj(x).dtype == torch.bfloat16
    assert layer.post_attention_layernorm(x).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.self_attn.o_proj(x.float()).dtype == torch.bfloat16


def test_paligemma_2_trains_the_norm_of_the_same_sublayer() -> None:
    text = Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=16, projection_dim=32, vision_use_head=False,
    )  # fmt: skip
    config = PaliGemmaConfig(text_config=text, vision_config=vision, projection_dim=32)
    with torch.device("meta"):
        base = PaliGemmaForConditionalGeneration(config)
    model = get_peft_model(base, BottleneckConfig(train_norms=True, layers=[1]))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    place = f"{STATE}model.language_model.layers.1."
    assert {name for name in trained if "norm" in name} == {
        f"{place}post_attention_layernorm.bottleneck_norm.default.weight",
        f"{place}post_feedforward_layernorm.bottleneck_norm.default.weight",
    }
