"""Embeddings in 8 bits against plain layers whose weights were rounded by plain PyTorch."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PaliGemmaForConditionalGeneration
from transformers.models.gemma.modeling_gemma import GemmaTextScaledWordEmbedding

from qvla.methods.bottleneck import BASE, BottleneckConfig
from qvla.models import int8_embedding
from qvla.models.adapters import load_adapter
from qvla.models.backbone import load_backbone
from qvla.models.footprint import census
from qvla.models.int8_embedding import (
    FEW_ROWS,
    Int8Embedding,
    Int8Head,
    dequantised,
    quantise,
    quantise_embeddings,
)
from tests.support.adapted import make_inputs, randomise, row
from tests.support.alone import round_rows, save_adapter

TOKENS = 1001
WIDTHS = [80, 72]  # PyTorch's int8 product takes multiples of 16 only
ROWS = [0, 1, FEW_ROWS, FEW_ROWS + 1, 70]


@pytest.fixture(params=WIDTHS)
def table(request: pytest.FixtureRequest) -> torch.Tensor:
    """Rows of very different size, one of zeros among them."""
    torch.manual_seed(0)
    weight = torch.randn(TOKENS, request.param) * torch.rand(TOKENS, 1) ** 4
    weight[7] = 0
    return weight.bfloat16()


@pytest.fixture
def head(table: torch.Tensor) -> Int8Head:
    numbers, scale = quantise(table)
    return Int8Head(nn.Parameter(numbers, requires_grad=False), scale)


@pytest.fixture
def many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(int8_embedding.CHUNK_BYTES, "cpu", 4 * max(WIDTHS) * 300)


def exact(head: Int8Head) -> torch.Tensor:
    """The table that the head stands for, without a rounding of its own."""
    return head.weight.double() * head.scale.double()[:, None]


def distance(found: torch.Tensor, due: torch.Tensor) -> float:
    return float((found.double() - due.double()).norm() / due.double().norm())


def test_each_row_is_rounded_to_its_own_steps(table: torch.Tensor, many_chunks: None) -> None:
    numbers, scale = quantise(table)
    assert numbers.dtype is torch.int8 and numbers.shape == table.shape
    assert scale.dtype is torch.bfloat16 and scale.shape == (TOKENS,)
    largest = numbers.int().abs().amax(1)
    assert largest[7] == 0 and (largest[torch.arange(TOKENS) != 7] == 127).all()
    error = (numbers * scale[:, None].float() - table.float()).abs()
    assert (error <= 0.5001 * scale[:, None].float()).all()
    rounded = table.clone()
    round_rows(rounded)
    assert torch.equal(numbers * scale[:, None], rounded)


@pytest.mark.parametrize("kind", [nn.Embedding, GemmaTextScaledWordEmbedding])
def test_the_embedding_is_the_plain_one_of_the_rounded_table(
    table: torch.Tensor, kind: type[nn.Embedding]
) -> None:
    options = {} if kind is nn.Embedding else {"embed_scale": 7.3}
    plain = kind(*table.shape, 0, **options).bfloat16()
    numbers, scale = quantise(table)
    small = Int8Embedding(plain, nn.Parameter(numbers, requires_grad=False), scale)
    round_rows(table)
    plain.weight.data = table
    ids = torch.randint(TOKENS, (3, 5))
    assert torch.equal(small(ids), plain(ids))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.004), (torch.float32, 1e-6)])
def test_logits_are_those_of_the_rounded_table(
    head: Int8Head,
    many_chunks: None,
    rows: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    hidden = torch.randn(1, rows, head.in_features).to(dtype)
    found = head(hidden)
    assert found.dtype is dtype and found.shape == (1, rows, TOKENS)
    assert rows == 0 or distance(found, F.linear(hidden.double(), exact(head))) < tolerance


@pytest.mark.parametrize("rows", ROWS[1:])
def test_gradients_are_those_of_the_rounded_table(
    head: Int8Head, many_chunks: None, rows: int
) -> None:
    wanted = torch.randn(1, rows, TOKENS)
    for dtype, tolerance in ((torch.bfloat16, 0.01), (torch.float32, 1e-5)):
        hidden = torch.randn(1, rows, head.in_features).to(dtype).requires_grad_()
        (head(hidden) * wanted).sum().backward()
        assert hidden.grad.dtype is dtype and hidden.grad.shape == hidden.shape
        assert distance(hidden.grad, wanted.double() @ exact(head)) < tolerance
    assert head.weight.grad is None and head.scale.grad is None


def test_autocast_is_obeyed_as_by_a_linear_layer(head: Int8Head) -> None:
    hidden = torch.randn(3, head.in_features, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(hidden)
    assert found.dtype is torch.bfloat16
    found.float().sum().backward()
    assert hidden.grad.dtype is torch.float32 and hidden.grad.norm() > 0


def test_a_row_that_starts_anywhere_in_memory(head: Int8Head) -> None:
    hidden = torch.randn(1 + head.in_features).bfloat16()[1:]
    due = F.linear(hidden.double(), exact(head))
    assert distance(head(hidden), due) < 0.004


class Unpacked(TorchDispatchMode):
    """Notes the most rows of a table's width that were held as floats."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.rows = width, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                rows = tensor.numel() // self.width if self.width in tensor.shape else 0
                self.rows = max(self.rows, rows)
        return result


@pytest.mark.parametrize("rows", [1, 20])
def test_the_table_is_never_unpacked_whole(head: Int8Head, many_chunks: None, rows: int) -> None:
    width = head.in_features
    hidden = torch.randn(rows, width).bfloat16().requires_grad_()
    with Unpacked(width) as unpacked:
        logits = head(hidden)
    few = rows == 1 and width % 16 == 0
    assert unpacked.rows == 1 if few else rows < unpacked.rows <= 700  # chunks are for float32
    with Unpacked(width) as unpacked:
        logits.sum().backward()
    assert rows < unpacked.rows <= 700
    with Unpacked(width) as unpacked:
        dequantised(head)
    assert unpacked.rows == TOKENS  # so it would have been seen


def load(folder: Path, **options: Any) -> nn.Module:
    """In bfloat16, in which a table that is not in 8 bits is held on every processor."""
    options |= {"device": "cpu", "compute": torch.bfloat16}
    return load_backbone(folder, "nf4", for_training=True, **options).model


def test_both_share_one_table_and_the_old_one_is_gone(tiny_checkpoint: Path) -> None:
    model = PaliGemmaForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16)
    old = weakref.ref(model.lm_head.weight)
    rows, width = old().shape
    quantise_embeddings(model)
    assert old() is None
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not any(
        parameter.shape == (rows, width) and parameter.is_floating_point()
        for parameter in model.parameters()
    )
    assert copy.deepcopy(model).lm_head.weight.dtype is torch.int8
    assert census(model).part_bytes["embeddings"] == rows * (width + 2)


def test_untied_embeddings_get_a_table_each(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = PaliGemmaForConditionalGeneration.from_pretrained(tiny_checkpoint)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().flip(0).clone())
    model.save_pretrained(tmp_path)
    load_backbone(tiny_checkpoint, "fp32", device="cpu").processor.save_pretrained(tmp_path)
    found, due = load(tmp_path, embeddings="int8"), load(tmp_path, embeddings="bf16")
    assert found.lm_head.weight is not found.get_input_embeddings().weight
    for plain in (due.lm_head, due.get_input_embeddings()):
        round_rows(plain.weight.data)
    inputs = make_inputs(tmp_path, 2, torch.bfloat16)
    with torch.no_grad():
        assert distance(found(**inputs).logits, due(**inputs).logits) < 0.005


def trained(folder: Path, embeddings: str, rounded: bool = False) -> nn.Module:
    model = load(folder, embeddings=embeddings)
    if rounded:
        round_rows(model.lm_head.weight.data)
    model = get_peft_model(model, BottleneckConfig())
    randomise(model, "default", seed=1)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def test_adapters_learn_the_same_through_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    inputs = make_inputs(tiny_checkpoint, 2, torch.bfloat16)
    inputs["labels"] = inputs["input_ids"]
    models = {
        "found": trained(tiny_checkpoint, "int8"),
        "due": trained(tiny_checkpoint, "bf16", rounded=True),
    }
    gradients = {}
    for name, model in models.items():
        model(**inputs).loss.backward()
        learnt = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        gradients[name] = torch.cat([gradient.flatten() for gradient in learnt])
        model.save_pretrained(tmp_path / name)
    assert gradients["due"].norm() > 0
    assert distance(gradients["found"], gradients["due"]) < 0.05
    saved = {name: load_file(tmp_path / name / "adapter_model.safetensors") for name in models}
    assert saved["found"].keys() == saved["due"].keys()
    assert all(torch.equal(saved["found"][key], saved["due"][key]) for key in saved["due"])


def test_base_and_adapter_answer_in_one_batch(tiny_checkpoint: Path, tmp_path: Path) -> None:
    save_adapter(tiny_checkpoint, tmp_path, seed=1)
    backbone = load_backbone(tiny_checkpoint, "nf4", device="cpu", embeddings="int8")
    inputs = make_inputs(tiny_checkpoint, 2, torch.bfloat16)
    options = {"max_new_tokens": 6, "do_sample": False}
    with torch.inference_mode():
        base = backbone.model.generate(**row(inputs, 0), **options)
        backbone.model = load_adapter(backbone, tmp_path, "own").model
        own = backbone.model.generate(**row(inputs, 1), **options)
        both = backbone.model.generate(**inputs, **options, adapter_names=[BASE, "own"])
    length = inputs["input_ids"].shape[1]
    assert not torch.equal(base[0, length:], own[0, length:])
    for mixed, alone in zip(both, (base[0], own[0]), strict=True):
        assert torch.equal(mixed[: len(alone)], alone)


def test_lora_goes_around_the_head_as_around_a_plain_one(tiny_checkpoint: Path) -> None:
    model = load(tiny_checkpoint, embeddings="int8")
    inputs = make_inputs(tiny_checkpoint, 1, torch.bfloat16)
    with torch.no_grad():
        before = model(**inputs).logits
    config = LoraConfig(r=4, target_modules=["lm_head", "embed_tokens"], init_lora_weights=False)
    model = get_peft_model(model, config)
    with torch.no_grad():
        assert not torch.equal(model(**inputs).logits, before)
        with model.disable_adapter():
            assert torch.equal(model(**inputs).logits, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", ROWS[1:])
def test_on_cuda(head: Int8Head, rows: int) -> None:
    hidden, wanted = torch.randn(rows, head.in_features).bfloat16(), torch.randn(rows, TOKENS)
    there = hidden.cuda().requires_grad_()
    due, gradient = F.linear(hidden.double(), exact(head)), wanted.double() @ exact(head)
    found = head.cuda()(there)
    (found * wanted.cuda()).sum().backward()
    assert distance(found.detach().cpu(), due) < 0.005
    assert distance(there.grad.cpu(), gradient) < 0.01
