"""The token table of an NF4 model in 8 bits: the embedding, and the output head tied to it.

PaliGemma's table of 257,216 tokens is its largest tensor, and NF4 leaves it in bfloat16, where it
is nearly half of all bytes. Here each weight is an int8, and each row (one token) has one scale,
its largest weight over 127: the vector-wise absmax quantisation of Dettmers et al., "LLM.int8()"
(arXiv 2208.07339), of weights alone. What goes in and comes out is in the dtype of the scales:
bfloat16, or what else the model computes in.

The table is never unpacked whole: the embedding unpacks the rows it is asked for, and the head has
PyTorch's own product for few rows on a CPU and otherwise unpacks one chunk at a time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

LARGEST = 127
# An unpacked chunk stays in the cache of a processor, and on a GPU costs few launches.
CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 32 * 2**20}
# PyTorch's int8 product is written for few rows: at full size on a CPU it takes three quarters of
# bfloat16's time with one row, and as long as chunks with twelve. On CUDA chunks are always faster:
# on an H200 they take 1.7 ms with up to 64 rows, the product 2.3 with one and 4.6 with four.
FEW_ROWS = 8
PRODUCT = "aten::_weight_int8pack_mm"
HAS_PRODUCT = hasattr(
    torch.ops.aten, PRODUCT.removeprefix("aten::")
) and torch._C._dispatch_has_kernel_for_dispatch_key(PRODUCT, "CPU")


class Int8Embedding(nn.Embedding):
    """An embedding over an int8 table `weight` (V, H) with `scale` (V), frozen.

    It takes the place of Gemma's scaled embedding or a plain one and gives what that would with the
    unpacked table. A subclass, so that PEFT and Transformers know it for what it is.
    """

    scale: torch.Tensor
    embed_scale: torch.Tensor | None

    def __init__(self, source: nn.Embedding, table: nn.Parameter, scale: torch.Tensor) -> None:
        rows, width = table.shape
        super().__init__(rows, width, source.padding_idx, _weight=table.detach(), _freeze=True)
        self.weight = table  # the very one that the head has
        self.register_buffer("scale", scale)
        # Gemma's factor, the root of H; older versions of Transformers apply it in the model.
        self.register_buffer("embed_scale", getattr(source, "embed_scale", None), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found = self.weight[ids] * self.scale[ids].unsqueeze(-1)  # (..., H) in the scale's dtype
        return found if self.embed_scale is None else found * self.embed_scale.to(found.dtype)


class Int8Head(nn.Linear):
    """A linear layer without bias over an int8 table `weight` (V, H) with `scale` (V), frozen."""

    scale: torch.Tensor

    def __init__(self, table: nn.Parameter, scale: torch.Tensor) -> None:
        rows, width = table.shape
        super().__init__(width, rows, bias=False, device="meta")
        self.weight = table
        self.register_buffer("scale", scale)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) of hidden states (..., H), in their dtype or in that of autocast."""
        kind = hidden.device.type
        if torch.is_autocast_enabled(kind):
            hidden = hidden.to(torch.get_autocast_dtype(kind))
        if torch.is_grad_enabled() and hidden.requires_grad:
            return _Product.apply(hidden, self.weight, self.scale)
        return _product(hidden, self.weight, self.scale)


Int8Table = Int8Embedding | Int8Head


def quantise_embeddings(model: PreTrainedModel) -> None:
    """Puts the model's embedding and output head into 8 bits, in place, and frees what they were.

    Tied ones share one int8 table; of untied ones each gets its own. `state_dict` then holds the
    table as it is, in int8, so such a model is not for saving whole, only its adapters are.
    """
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    tied = head.weight is embedding.weight
    table, scale = _parameters(embedding.weight)
    model.set_input_embeddings(Int8Embedding(embedding, table, scale))
    if not tied:
        table, scale = _parameters(head.weight)
    model.set_output_embeddings(Int8Head(table, scale))
    del embedding, head
    gc.collect()
    if table.is_cuda:
        torch.cuda.empty_cache()


def tables(model: nn.Module) -> Iterator[tuple[str, Int8Table]]:
    """Names and modules of what is held in 8 bits here."""
    for name, module in model.named_modules():
        if isinstance(module, (Int8Embedding, Int8Head)):
            yield name, module


@torch.no_grad()
def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A table (V, H) as int8 (V, H) and scales (V) in its own dtype; the row is int8 * scale."""
    scale = torch.maximum(weight.amax(1), -weight.amin(1)) / LARGEST
    scale.masked_fill_(scale == 0, 1)  # rows of zeros, of which any scale is right
    table = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    for part in _parts(weight, torch.float32):
        steps = weight[part].float() / scale[part, None].float()
        table[part] = steps.round_().clamp_(-LARGEST, LARGEST)
    return table, scale


def dequantised(module: Int8Table) -> torch.Tensor:
    """The table (V, H) that a module stands for, in the dtype of its scales."""
    return module.weight * module.scale[:, None]


def table_bytes(rows: int, width: int, number: int = 2) -> int:
    """Bytes of a table of that size with its scales, of so many bytes each: 2 in bfloat16."""
    return rows * (width + number)


class _Product(torch.autograd.Function):
    """The head's product with the gradient of its input; the table itself is frozen."""

    @staticmethod
    def forward(
        context: Any, hidden: torch.Tensor, table: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        context.save_for_backward(table, scale)
        return _product(hidden, table, scale)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        table, scale = context.saved_tensors
        flat, scale = gradient.reshape(-1, len(table)), scale.to(gradient.dtype)  # (N, V), (V)
        # Summed in float32: bfloat16 would round after every chunk.
        total = torch.zeros(len(flat), table.shape[1], dtype=torch.float32, device=flat.device)
        for part, chunk in _chunks(table, flat.dtype):
            total += (flat[:, part] * scale[part]) @ chunk
        return total.to(flat.dtype).view(*gradient.shape[:-1], table.shape[1]), None, None


def _product(hidden: torch.Tensor, table: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    if hidden.dtype is torch.float16:  # in which a sum of so large integers would overflow
        return _product(hidden.float(), table, scale.float()).to(hidden.dtype)
    flat = hidden.reshape(-1, hidden.shape[-1]).contiguous()  # (N, H)
    scale = scale.to(flat.dtype)
    if _has_product(flat, table):
        logits = torch.ops.aten._weight_int8pack_mm(flat, table, scale)
    else:
        logits = flat.new_empty(len(flat), len(table))
        for part, chunk in _chunks(table, flat.dtype):
            torch.mm(flat, chunk.T, out=logits[:, part])
        logits *= scale  # here rather than in each chunk, which is larger
    return logits.view(*hidden.shape[:-1], len(table))


def _chunks(table: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
    """Runs of the table's rows as floats, not yet scaled; the next overwrites the last."""
    buffer = None
    for part in _parts(table, dtype):
        if buffer is None:
            buffer = torch.empty(part.stop, table.shape[1], dtype=dtype, device=table.device)
        yield part, buffer[: part.stop - part.start].copy_(table[part])


def _parts(table: torch.Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """Runs of rows that take no more than a chunk's bytes in a dtype."""
    rows, width = table.shape
    limit = CHUNK_BYTES.get(table.device.type, CHUNK_BYTES["cpu"])
    step = max(1, limit // (width * dtype.itemsize))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _parameters(weight: torch.Tensor) -> tuple[nn.Parameter, torch.Tensor]:
    table, scale = quantise(weight)
    return nn.Parameter(table, requires_grad=False), scale


def _has_product(flat: torch.Tensor, table: torch.Tensor) -> bool:
    """Whether PyTorch's int8 product is there, right and fast for these.

    It is written for bfloat16, and it reads 16 numbers at a time without looking where a row ends
    or whether it starts at a multiple of them.
    """
    if flat.device.type != "cpu" or not (HAS_PRODUCT and 0 < len(flat) <= FEW_ROWS):
        return False
    aligned = flat.data_ptr() % 32 == 0 and table.data_ptr() % 16 == 0
    return flat.dtype is torch.bfloat16 and flat.shape[1] % 16 == 0 and aligned
