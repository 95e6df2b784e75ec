"""What a model is made of: parameters by part and by dtype, and the bytes that they take.

`get_memory_footprint()` of Transformers leaves out the quantisation state of NF4 and INT8 layers;
here it is counted, and so are the scales of embeddings in 8 bits. Tied weights are counted once.
Other buffers (rotary frequencies, position indices) are no weights and are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from qvla.models import int8, int8_embedding, nf4
from qvla.models.families import family_of
from qvla.models.families.family import Family

ADAPTERS = "adapters"
OTHER = "other"


@dataclass
class Census:
    """Counts of one model, adapters included.

    `parameters` are those of the architecture; `elements` are what is stored, by dtype: an NF4
    weight stores two parameters in one uint8 element. `part_bytes` count the stored elements and
    the quantisation state, of which `quantisation_bytes` is the latter's share.
    """

    parameters: Counter[str] = field(default_factory=Counter)  # part -> parameters
    elements: Counter[str] = field(default_factory=Counter)  # dtype -> stored elements
    part_bytes: Counter[str] = field(default_factory=Counter)  # part -> bytes
    adapters: Counter[str] = field(default_factory=Counter)  # adapter's name -> parameters
    adapter_bytes: Counter[str] = field(default_factory=Counter)  # adapter's name -> bytes
    quantisation_bytes: int = 0

    @property
    def total_parameters(self) -> int:
        return self.parameters.total()

    @property
    def total_bytes(self) -> int:
        return self.part_bytes.total()


def census(model: nn.Module) -> Census:
    """Counts a model in any precision, on any device (meta too), with or without adapters.

    Adapters, which may be several, are a part of their own and listed by name. On a processor with
    AVX-512 BF16, NF4 layers are counted in the packed form in which they lie in memory. Raises
    BackboneError for a model of a family that is not known here.
    """
    counts = Census()
    family = family_of(getattr(model, "config", None))
    owners = dict(_adapter_parameters(model))
    quantised = {id(layer.weight): layer for _, layer in nf4.layers(model)}
    scales = {id(table.weight): table.scale for _, table in int8_embedding.tables(model)}
    scales |= {id(layer.weight): int8.held(layer)[1] for _, layer in int8.layers(model)}
    seen: set[object] = set()
    for name, parameter in model.named_parameters():  # leaves out what is tied to an earlier one
        adapter = owners.get(id(parameter))
        part = ADAPTERS if adapter is not None else part_of(name, family)
        size, dtype = parameter.numel(), _dtype(parameter)
        layer = quantised.get(id(parameter))
        logical = size if layer is None else layer.out_features * layer.in_features
        state = [scales[id(parameter)]] if id(parameter) in scales else []
        if layer is not None:
            state.extend(nf4.state_tensors(layer))
        state_bytes = sum(_bytes(tensor, seen) for tensor in state)
        stored_bytes = _bytes(parameter, seen) + state_bytes
        counts.parameters[part] += logical
        counts.elements[dtype] += size
        counts.part_bytes[part] += stored_bytes
        counts.quantisation_bytes += state_bytes
        if adapter is not None:
            counts.adapters[adapter] += logical
            counts.adapter_bytes[adapter] += stored_bytes
    return counts


def weight_bytes(model: nn.Module, adapter_name: str | None = None) -> int:
    """Bytes of the weights that answer for the base (None) or for the base with one adapter.

    Raises KeyError for an adapter that the model does not have.
    """
    counts = census(model)
    base = counts.total_bytes - counts.part_bytes[ADAPTERS]
    if adapter_name is None:
        return base
    if adapter_name not in counts.adapters:
        raise KeyError(f"the model has no adapter {adapter_name!r}")
    return base + counts.adapter_bytes[adapter_name]


def part_of(name: str, family: Family) -> str:
    """The part to which the base parameter of this name belongs, whatever it is wrapped in."""
    path = f".{name}."
    return next((part for place, part in family.parts.items() if f".{place}." in path), OTHER)


def _adapter_parameters(model: nn.Module) -> Iterator[tuple[int, str]]:
    """Identity of each adapter parameter, and the adapter's name, for any PEFT method."""
    for module in model.modules():
        if not isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            continue
        for attribute in module.adapter_layer_names:
            for adapter, own in getattr(module, attribute, {}).items():
                parameters = [own] if isinstance(own, nn.Parameter) else own.parameters()
                yield from ((id(parameter), adapter) for parameter in parameters)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _bytes(tensor: torch.Tensor, seen: set[object]) -> int:
    """Bytes of a tensor, 0 where its storage was counted already."""
    key = id(tensor) if tensor.is_meta else (tensor.device, tensor.data_ptr())
    if key in seen:
        return 0
    seen.add(key)
    return tensor.numel() * tensor.element_size()
