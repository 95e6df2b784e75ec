"""How fast this machine reads memory: the limit of a decoding step, which reads all its weights."""

from __future__ import annotations

from typing import Any

import torch

from qvla.captioning.shared_backbone import SharedBackbone
from qvla.models import int8, nf4
from qvla.models.families.family import LANGUAGE_MODEL
from qvla.models.footprint import part_of
from qvla.records.measure import clock

LARGEST = 2**30  # bytes; no processor's cache holds as many, so that more need not be read
READS = 4  # in one timing, so that starting a kernel and waiting for it weigh little
TIMINGS = 7


def seconds_to_read(size: int, device: torch.device) -> float:
    """Seconds in which the device reads `size` bytes once: the best of several timings.

    What is read is a float32 tensor of that size, or of `LARGEST` and then in proportion, by
    summing it. Fewer bytes than the cache holds are read from the cache, as such weights would be.
    """
    held = torch.ones(max(1, min(size, LARGEST) // 4), device=device)
    held.sum()
    best = float("inf")
    for _ in range(TIMINGS):
        start = clock(device)
        for _ in range(READS):
            held.sum()
        best = min(best, clock(device) - start)
    return best / READS * size / held.nbytes


def step_bytes(shared: SharedBackbone, variant: str) -> int:
    """Bytes of the weights that a decoding step of the variant must read at least once.

    Those of the language model, its output head and the variant's adapter: the vision tower and the
    projector have done their part by then. Quantised weights count with their scales as loaded. The
    cache of keys and values is left out, so what is counted is less than what is read.
    """
    model, view = shared.model_of(variant), shared.view_of(variant)
    adapters = {} if view is None else view.adapters
    others = set(adapters.values()) - {adapters.get(variant)}
    family = shared.loaded.family
    head: Any = model.get_output_embeddings()
    size = sum(tensor.nbytes for tensor in (*head.parameters(), *head.buffers()))
    for name, parameter in model.named_parameters():
        if part_of(name, family) == LANGUAGE_MODEL and not others & set(name.split(".")):
            size += parameter.nbytes
    for name, layer in nf4.layers(model):
        if part_of(name, family) == LANGUAGE_MODEL:
            size += nf4.state_bytes(layer.in_features * layer.out_features)
    for name, eight in int8.layers(model):
        if part_of(name, family) == LANGUAGE_MODEL:
            size += int8.state_bytes(eight.out_features)
    return size


def head_dtype(shared: SharedBackbone) -> str:
    """The type in which the output head, the largest of those weights, is held."""
    weight = shared.loaded.model.get_output_embeddings().weight
    return str(weight.dtype).removeprefix("torch.")
