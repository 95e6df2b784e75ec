"""What a fine-tune method would train, in numbers a tensor, told from a configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from qvla.methods.method import Method, Trained
from qvla.models.families import family_of

# bitsandbytes: tensors below this keep float32 states; above, a byte a number and state, with a
# float32 scale for each block (Dettmers et al., arXiv 2110.02861).
SMALLEST_8BIT, BLOCK_8BIT = 4096, 256


class Skeleton:
    """A model on the meta device: shapes without memory."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._family = family_of(config)
        self._model = self._family.skeleton(config)
        # name to outputs and inputs of every layer that NF4 quantises: all but the output head
        self.linear_layers: dict[str, tuple[int, int]] = {
            name: (module.out_features, module.in_features)
            for name, module in self._model.named_modules()
            if isinstance(module, nn.Linear) and name != self._family.head
        }
        self.sizes: list[int] = [tensor.numel() for tensor in self._model.parameters()]
        # Numbers that an adapter holds and does not train, such as VeRA's random matrices.
        self.fixed = 0

    def train(self, method: Method, recipe: Any) -> tuple[Trained, list[int]]:
        """What a method trains by a recipe, or by what has its fields of one, and the sizes of the
        tensors that it trains. Raises QvlaError for what the model cannot carry. Call once.
        """
        places = self._family.places(self._config)
        trained, adapter = method.trained(recipe, places), method.config(recipe, places)
        if adapter is None:
            return trained, self.sizes
        own = {id(tensor) for tensor in (*self._model.parameters(), *self._model.buffers())}
        adapted = method.outline(self._model, adapter)
        held = {id(one): one.numel() for one in (*adapted.parameters(), *adapted.buffers())
                if id(one) not in own and not one.requires_grad}  # fmt: skip
        self.fixed = sum(held.values())
        return trained, [tensor.numel() for tensor in adapted.parameters() if tensor.requires_grad]


def optimiser_bytes(sizes: Sequence[int], optimiser: str, number: int = 4) -> int:
    """Adam's two states of every trained number: as wide as the number, or of 8 bits."""
    if not optimiser.endswith("8bit"):
        return 2 * number * sum(sizes)
    total = 0
    for size in sizes:
        small = size < SMALLEST_8BIT
        total += 8 * size if small else 2 * (size + 4 * -(-size // BLOCK_8BIT))
    return total
