"""INT8 layers: LLM.int8 (Dettmers et al., arXiv 2208.07339), by bitsandbytes.

A weight is held in 8 bits with one scale an output. A product quantises each row of its input too,
but for the features in which some row of the batch is beyond the threshold: those are multiplied in
floating point. So the rows of a batch have a little to do with each other, unlike in other
precisions: what is said beside others may differ from what is said alone in the last digits.

bitsandbytes moves the weight and its scales from the parameter into a state beside it at the first
forward pass. Here that is done at once, so that everything that looks at a model sees it in one
form.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from bitsandbytes.nn import Linear8bitLt
from torch import nn
from transformers import BitsAndBytesConfig

SCALE_BYTES = 4  # a float32 for each output
# Where it says at every product that it goes through float16, which is how the method works.
TALKATIVE = "bitsandbytes.autograd._functions"


def quantisation_config() -> BitsAndBytesConfig:
    """With the paper's threshold of 6. Transformers leaves the embeddings and the output head as
    they are; all other linear layers, the vision tower's and the projector's too, are quantised.
    """
    return BitsAndBytesConfig(load_in_8bit=True)


def layers(model: nn.Module) -> Iterator[tuple[str, Linear8bitLt]]:
    """Names and modules of the quantised layers."""
    for name, module in model.named_modules():
        if isinstance(module, Linear8bitLt):
            yield name, module


def prepare(model: nn.Module) -> None:
    """Brings every layer into the form that it has from its first forward pass on."""
    for _, layer in layers(model):
        weight: Any = layer.weight
        if weight.CB is not None:
            layer.init_8bit_state()
    logging.getLogger(TALKATIVE).setLevel(logging.ERROR)


def held(layer: Linear8bitLt) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight (out, in) int8, which is the parameter's own storage, and its scales (out)."""
    state = layer.state
    assert state.CB is not None and state.SCB is not None  # `prepare` has put them there
    return state.CB, state.SCB


def state_bytes(outputs: int) -> int:
    """Bytes of the scales of a layer of so many outputs."""
    return SCALE_BYTES * outputs
