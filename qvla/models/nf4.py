"""NF4 layers: how they are made, and bitsandbytes' packed form on processors with AVX-512 BF16.

On such a processor `Linear4bit` repacks its weight in place at the first evaluation forward. The
packed form is what makes decoding on the CPU fast, but in bitsandbytes 0.50:

- it asserts on sizes that are not multiples of 32 (out) and 64 (in), as SigLIP's 4,304;
- `train()` does not undo it, and no gradient passes through a packed layer, silently;
- its scales are bfloat16, so numbers differ slightly, and unpacking quantises them anew, so that a
  saved model would not be the one that was loaded.

Here odd layers never pack, a model for training never packs, and unpacking restores the very scales
that were loaded. A processor without those instructions has no fast bfloat16 at all: there the
layers compute in float32. NF4 and double quantisation: Dettmers et al., "QLoRA" (arXiv 2305.14314).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import (
    QuantState,
    _convert_weight_packed_for_cpu_inverse,
    has_avx512bf16,
)
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import BitsAndBytesConfig

BLOCK = 64  # weights that share one scale, bitsandbytes' default
NESTED_BLOCK = 256  # scales that share one scale of their own
PACKED_ROWS = 32  # output features that the packed form interleaves

# The attribute of a layer that keeps the quantisation state as it was before packing.
_LOADED = "loaded_quant_state"


def quantisation_config(compute: torch.dtype = torch.bfloat16) -> BitsAndBytesConfig:
    """NF4 with double quantisation and bfloat16 compute, the report's and QLoRA's choice.

    Transformers leaves the embeddings and the output head as they are; all other linear layers,
    the vision tower's and the projector's too, are quantised.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def layers(model: nn.Module) -> Iterator[tuple[str, Linear4bit]]:
    """Names and modules of the quantised layers."""
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            yield name, module


def weight_of(layer: Linear4bit) -> Any:
    """The layer's weight with its `quant_state`, which PyTorch's types do not know of."""
    return layer.weight


def is_packed(layer: Linear4bit) -> bool:
    return bool(getattr(weight_of(layer).quant_state, "packing_format_for_cpu", False))


def can_pack(layer: Linear4bit) -> bool:
    """Whether the packed form is valid for the layer's sizes."""
    return layer.out_features % PACKED_ROWS == 0 and layer.in_features % BLOCK == 0


def packs() -> bool:
    """Whether this processor has AVX-512 BF16, and with it bitsandbytes' packed form."""
    return bool(has_avx512bf16())


def compute_in_float32(model: nn.Module) -> None:
    """Has a loaded model compute in float32, in place, with the very same weights.

    What is not quantised (norms, biases, the photo's patches, scales of an int8 table) is held in
    float32 too, so that all that one layer hands to the next is. Such layers never pack, as packed
    ones compute in bfloat16.
    """
    for _, layer in layers(model):
        layer.compute_dtype = weight_of(layer).quant_state.dtype = torch.float32
        layer.support_avx512bf16_for_cpu = False
    nn.Module.float(model)  # Transformers forbids casting what it thinks is quantised


def prepare_for_inference(model: nn.Module) -> None:
    """Packs every layer that can be packed, where the processor has AVX-512 BF16.

    Packing happens here rather than within the first caption, so that the first caption is no
    slower than the next and weights have one size from the start. On CUDA nothing is done.
    """
    for _, layer in layers(model):
        if layer.weight.device.type != "cpu" or not layer.support_avx512bf16_for_cpu:
            continue
        if not can_pack(layer):
            layer.support_avx512bf16_for_cpu = False
            continue
        if is_packed(layer):
            continue
        if not hasattr(layer, _LOADED):
            layer.register_state_dict_pre_hook(_before_saving)
        # A shallow copy is enough: bitsandbytes puts new tensors into the state it packs.
        setattr(layer, _LOADED, copy.copy(weight_of(layer).quant_state))
        layer.eval()
        with torch.no_grad():
            layer(torch.zeros(1, layer.in_features, dtype=torch.bfloat16))


def prepare_for_training(model: nn.Module) -> None:
    """Unpacks every layer and keeps it from packing again, in evaluation between steps too.

    Call it before the first evaluation of a process that trains; `load_backbone(...,
    for_training=True)` does.
    """
    for _, layer in layers(model):
        layer.support_avx512bf16_for_cpu = False
        unpack(layer)


def unpack(layer: Linear4bit) -> None:
    """Brings a packed layer back, bit for bit, to what was loaded; otherwise does nothing.

    A layer that packed itself without `prepare_for_inference` comes back with the scales that
    bitsandbytes can still reconstruct, which are close but not the same.
    """
    if not is_packed(layer):
        return
    packed = weight_of(layer).quant_state
    layer.weight.data, state = _convert_weight_packed_for_cpu_inverse(layer.weight.data, packed)
    loaded = getattr(layer, _LOADED, None)
    state = state if loaded is None else copy.copy(loaded)
    weight_of(layer).quant_state = layer.quant_state = state


def dequantised(layer: Linear4bit) -> torch.Tensor:
    """The weight (out, in) that the layer stands for, in the dtype it was quantised from."""
    if is_packed(layer):
        layer = copy.deepcopy(layer)
        unpack(layer)
    return bnb.functional.dequantize_4bit(layer.weight.data, weight_of(layer).quant_state)


def state_tensors(layer: Linear4bit) -> Iterator[torch.Tensor]:
    """Every tensor of the layer's quantisation state, kept and nested ones included."""
    states = [weight_of(layer).quant_state, getattr(layer, _LOADED, None)]
    for state in states:
        if isinstance(state, QuantState):
            yield from _tensors(state)


def state_bytes(weights: int) -> int:
    """Bytes of the quantisation state of a layer of that many weights, as loaded, not packed.

    One byte a block for its scale, four a nested block for the scale of scales, and the two tables
    of values (16 and 256 float32) and the offset, which each layer has for itself.
    """
    blocks = -(-weights // BLOCK)
    nested_blocks = -(-blocks // NESTED_BLOCK)
    return blocks + 4 * nested_blocks + 4 * (16 + 256 + 1)


def _tensors(state: QuantState) -> Iterator[torch.Tensor]:
    values = vars(state).values()
    yield from (value for value in values if isinstance(value, torch.Tensor))
    nested = vars(state).get("state2")
    if nested is not None:
        yield from _tensors(nested)


def _before_saving(layer: Linear4bit, prefix: str, keep_vars: bool) -> None:
    unpack(layer)  # else bitsandbytes would, with scales quantised anew
