"""The size of the file that an adapter is saved to, told without weights.

A safetensors file is eight bytes, a JSON header that names every tensor, padded to a multiple of
eight, and the tensors one after the other (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn
from transformers.core_model_loading import revert_weight_conversion

LENGTH = 8  # bytes: of the header's own length, and what the header is padded to
METADATA = {"format": "pt"}
DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def stored_bytes(model: nn.Module) -> int:
    """Bytes of `adapter_model.safetensors`, or after full fine-tuning of the checkpoint's weights,
    were they in one file.

    What is trained is saved in float32, as a run holds it.
    """
    if isinstance(model, PeftModel):
        return file_bytes(get_peft_model_state_dict(model, save_embedding_layers=False))
    whole: Any = model  # a Transformers model
    own: dict[str, torch.Tensor] = dict(whole.named_parameters())  # tied weights once
    return file_bytes(revert_weight_conversion(whole, own))


def file_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Bytes of a safetensors file of these tensors, whose values do not matter."""
    header: dict[str, Any] = {"__metadata__": METADATA}
    start = 0
    for name, tensor in sorted(tensors.items()):
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return LENGTH + -(-len(text) // LENGTH) * LENGTH + start
