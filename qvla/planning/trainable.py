"""What a fine-tune method would train, in numbers a tensor, told from a configuration alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from qvla.methods.method import Method, Trained
from qvla.models.families import family_of
from qvla.models.params import nf4_sizes

# bitsandbytes: tensors below this keep float32 states; above, a byte a number and state, with a
# float32 scale for each block (Dettmers et al., arXiv 2110.02861).
SMALLEST_8BIT, BLOCK_8BIT = 4096, 256


class Skeleton:
    """A model on the meta device: shapes without memory. `model` is the bare one until a method was
    put around it.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.family = family_of(config)
        self.model: nn.Module = self.family.skeleton(config)
        # name to outputs and inputs of every layer that NF4 quantises: all but the output head
        self.linear_layers: dict[str, tuple[int, int]] = {
            name: (module.out_features, module.in_features)
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and name != self.family.head
        }
        self.sizes: list[int] = [tensor.numel() for tensor in self.model.parameters()]
        # Numbers that an adapter holds and does not train, such as VeRA's random matrices.
        self.fixed = 0
        self._trained: tuple[Trained, list[int]] | None = None

    @cached_property
    def quantised_bytes(self) -> dict[str, int]:
        """Bytes of the weights in INT8, and in NF4 by how the rest is held."""
        sizes: dict[str, int] = nf4_sizes(self.config)["bytes"]
        return sizes

    def train(self, method: Method, recipe: Any) -> tuple[Trained, list[int]]:
        """What a method trains by a recipe, or by what has its fields of one, and the sizes of the
        tensors that it trains. Raises QvlaError for what the model cannot carry.

        The first call puts the method around the model, and later ones answer the same: a skeleton
        is of one method.
        """
        if self._trained is not None:
            return self._trained
        places = self.family.places(self.config)
        trained, adapter = method.trained(recipe, places), method.config(recipe, places)
        sizes = self.sizes
        if adapter is not None:
            own = {id(tensor) for tensor in _tensors(self.model)}
            self.model = method.outline(self.model, adapter)
            added = {id(one): one for one in _tensors(self.model) if id(one) not in own}
            self.fixed = sum(one.numel() for one in added.values() if not one.requires_grad)
            sizes = [one.numel() for one in self.model.parameters() if one.requires_grad]
        self._trained = trained, sizes
        return self._trained


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def optimiser_bytes(sizes: Sequence[int], optimiser: str, number: int = 4) -> int:
    """Adam's two states of every trained number: as wide as the number, or of 8 bits."""
    if not optimiser.endswith("8bit"):
        return 2 * number * sum(sizes)
    total = 0
    for size in sizes:
        small = size < SMALLEST_8BIT
        total += 8 * size if small else 2 * (size + 4 * -(-size // BLOCK_8BIT))
    return total
