"""What a fine-tune method would train, in numbers a tensor, told from a configuration alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from peft import get_peft_model
from torch import nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from qvla.methods.bottleneck import BottleneckConfig
from qvla.planning.activations import Trained

# bitsandbytes: tensors below this keep float32 states; above, a byte a number and state, with a
# float32 scale for each block (Dettmers et al., arXiv 2110.02861).
SMALLEST_8BIT, BLOCK_8BIT = 4096, 256


class Skeleton:
    """A model on the meta device: shapes without memory."""

    def __init__(self, config: PaliGemmaConfig) -> None:
        self._config = config
        with torch.device("meta"):
            self._model = PaliGemmaForConditionalGeneration(config)
        # name to outputs and inputs of every layer that NF4 quantises: all but the output head
        self.linear_layers: dict[str, tuple[int, int]] = {
            name: (module.out_features, module.in_features)
            for name, module in self._model.named_modules()
            if isinstance(module, nn.Linear) and name != "lm_head"
        }
        self.sizes: list[int] = [tensor.numel() for tensor in self._model.parameters()]

    def bottleneck(self, adapter: BottleneckConfig) -> tuple[Trained, list[int]]:
        """A bottleneck adapter, and the sizes of its tensors; raises BottleneckError. Call once."""
        text = self._config.text_config
        with torch.device("meta"):
            adapted = get_peft_model(self._model, adapter)
        trained = Trained(
            "bottleneck",
            width=text.hidden_size // adapter.reduction_factor,
            layers=range(text.num_hidden_layers) if adapter.layers is None else adapter.layers,
            sites=adapter.sites,
            norms=adapter.train_norms,
        )
        return trained, [tensor.numel() for tensor in adapted.parameters() if tensor.requires_grad]

    def lora(
        self, rank: int, targets: Sequence[str], layers: Sequence[int] | None
    ) -> tuple[Trained, list[int]]:
        """LoRA around some projections of the decoder, and the sizes of its matrices."""
        depth = self._config.text_config.num_hidden_layers
        places = range(depth) if layers is None else layers
        trained = Trained("lora", width=rank, layers=places, sites=targets)
        return trained, list(self._lora_sizes(trained))

    def _lora_sizes(self, trained: Trained) -> Iterator[int]:
        for name, sides in self.linear_layers.items():
            _, found, place = name.partition("language_model.layers.")
            steps = place.split(".")
            if found and int(steps[0]) in trained.layers and steps[-1] in trained.sites:
                yield from (trained.width * side for side in sides)


def optimiser_bytes(sizes: Sequence[int], optimiser: str, number: int = 4) -> int:
    """Adam's two states of every trained number: as wide as the number, or of 8 bits."""
    if not optimiser.endswith("8bit"):
        return 2 * number * sum(sizes)
    total = 0
    for size in sizes:
        small = size < SMALLEST_8BIT
        total += 8 * size if small else 2 * (size + 4 * -(-size // BLOCK_8BIT))
    return total
