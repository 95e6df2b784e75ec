"""Where a method stands in a model, what it adds there, and what that costs each token.

All of it is read from a model on the meta device, so it holds for any method and any family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qvla.methods.places import Stack
from qvla.models.families.family import PROJECTOR, VISION_TOWER, Family
from qvla.models.footprint import part_of

WRAPPER = "base_model.model."  # before a bare model's names in a PeftModel
WHOLE = "whole layer"  # of what is put around a layer as such


@dataclass(frozen=True)
class Site:
    """A module that a method wraps or trains.

    `inputs` and `outputs` are those of a linear layer, None of anything else; `layer` is None
    outside the towers' layers; `added` are the trained tensors by name, with their sizes.
    """

    name: str
    part: str
    layer: int | None
    inputs: int | None
    outputs: int | None
    added: Mapping[str, tuple[int, ...]]

    @property
    def sees(self) -> bool:
        """Whether photos go through it, and not the tokens that are written."""
        return self.part in (VISION_TOWER, PROJECTOR)

    @property
    def parameters(self) -> int:
        return sum(prod(shape) for shape in self.added.values())

    def as_json(self) -> dict[str, Any]:
        own = {name: list(shape) for name, shape in self.added.items()}
        return {**vars(self), "added": own, "parameters": self.parameters}


@dataclass(frozen=True)
class Tower:
    """One of the two stacks of layers: `rows` are the modules that each layer has, by their names
    within it, and `lit` the pairs of layer and row that a method touches.
    """

    title: str
    layers: int
    rows: tuple[str, ...]
    lit: frozenset[tuple[int, str]]


def find_sites(
    bare: nn.Module, adapted: nn.Module, touched: Iterable[str], family: Family
) -> tuple[Site, ...]:
    """The touched modules in the model's order, with what is trained at each.

    What is trained at none of them, such as a prefix, stands under the names of the modules that
    hold it.
    """
    named = {name: module for name, module in bare.named_modules() if name}
    added: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in touched}
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            place, own = _place(name, added)
            added.setdefault(place, {})[own] = tuple(parameter.shape)
    order = {name: number for number, name in enumerate(named)}
    sites = []
    for name in sorted(added, key=lambda one: (order.get(one, len(order)), one)):
        base: Any = named.get(name)
        base = base.get_base_layer() if isinstance(base, BaseTunerLayer) else base
        inputs, outputs = (
            (base.in_features, base.out_features) if isinstance(base, nn.Linear) else (None, None)
        )
        part, layer = part_of(name, family), layer_of(name, family)
        sites.append(Site(name, part, layer, inputs, outputs, added[name]))
    return tuple(sites)


def find_towers(
    linear: Iterable[str], sites: Sequence[Site], config: Any, family: Family
) -> tuple[Tower, ...]:
    """The vision tower and the decoder with the sites lit. `linear` are their linear layers."""
    found = []
    places = family.places(config)
    for stack in (places.vision, places.language):
        if not stack.depth:
            continue
        layers = "|".join(map(re.escape, stack.paths))
        inside = re.compile(rf"(?:{layers})\.(\d+)(?:\.(.+))?")
        matches = filter(None, (inside.fullmatch(one.name) for one in sites))
        lit = [(int(match[1]), match[2] or WHOLE) for match in matches]
        usual = (match[2] for name in linear if (match := inside.fullmatch(name)))
        rows = dict.fromkeys([*usual, *(row for _, row in lit)])
        found.append(Tower(_title(stack), stack.depth, tuple(rows), frozenset(lit)))
    return tuple(found)


def _title(stack: Stack) -> str:
    return "Language decoder" if stack.title == "decoder" else stack.title.capitalize()


def layer_of(name: str, family: Family) -> int | None:
    """The number of the layer in either tower that a module is in."""
    for layers in family.all_layers:
        match = re.match(rf"{re.escape(layers)}\.(\d+)(?:\.|$)", name)
        if match:
            return int(match[1])
    return None


def operations(model: nn.Module, sites: Iterable[Site]) -> int | None:
    """Floating-point operations that the adapter adds at these sites for a token that goes through
    them alone, as when a caption is written; None where it is not at linear layers.

    They are counted by PyTorch in the wrapped modules themselves: products of matrices, and sums
    and products of numbers. What trains the base's own weights adds none.
    """
    wrapped = {
        name.removeprefix(WRAPPER): module
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    seen: dict[tuple[Any, ...], int] = {}
    total = 0
    for site in sites:
        module = wrapped.get(site.name)
        if module is None:
            continue
        if site.inputs is None:
            return None
        sizes = (type(module), site.inputs, site.outputs, *sorted(site.added.items()))
        if sizes not in seen:
            seen[sizes] = _added_operations(module, site.inputs)
        total += seen[sizes]
    return total


def _added_operations(module: BaseTunerLayer, inputs: int) -> int:
    base = module.get_base_layer()
    weight = next(base.parameters())
    token = torch.empty(1, inputs, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        return _counted(module, token) - _counted(base, token)


def _counted(module: Any, token: torch.Tensor) -> int:
    """Operations of a forward pass, without the dropout that captioning does not have."""
    numbers = {
        operation: lambda *_, out_shape=(), **__: prod(out_shape)
        for operation in (torch.ops.aten.add, torch.ops.aten.mul)
    }
    with FlopCounterMode(display=False, custom_mapping=numbers) as counter:
        module.eval()(token)
    return counter.get_total_flops()


def _place(name: str, sites: Mapping[str, Any]) -> tuple[str, str]:
    """The site that a trained parameter belongs to, and its name there without the adapter's."""
    parts = name.removeprefix(WRAPPER).split(".")
    for end in range(len(parts) - 1, 0, -1):
        place = ".".join(parts[:end])
        if place in sites:
            own = parts[end:]
            return place, ".".join(part for part in own if part not in ("default", "weight")) or (
                own[-1]
            )
    return ".".join(parts[:-1]), parts[-1]
