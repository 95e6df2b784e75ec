"""Where in a PaliGemma's language decoder the adapters go, by module name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from qvla.methods.bottleneck.config import SITES, BottleneckConfig, BottleneckError
from qvla.methods.bottleneck.layer import BottleneckLinear

# SigLIP's layers lie under `vision_tower.encoder.layers` and so can never be meant.
DECODER_LAYER = re.compile(r"(?:.+\.)?language_model\.layers\.(\d+)")


def projections(model: nn.Module, config: BottleneckConfig) -> Iterator[str]:
    """Names of the projections to wrap, each checked to be one that an adapter fits after."""
    layers = _decoder_layers(model)
    for index in _adapted_layers(model, config):
        name, layer = layers[index]
        for site in config.sites:
            projection = layer.get_submodule(SITES[site])
            if isinstance(projection, BottleneckLinear):
                projection = projection.get_base_layer()
            hidden = projection.out_features
            if hidden // config.reduction_factor < 1:
                raise BottleneckError(
                    f"A reduction factor of {config.reduction_factor} leaves no width at a hidden "
                    f"size of {hidden}: choose one of at most {hidden}."
                )
            yield f"{name}.{SITES[site]}"


def norms(model: nn.Module, config: BottleneckConfig) -> Iterator[str]:
    """Names of the normalisation layers that come next after each adapter.

    In Gemma the MLP's output meets its next normalisation in the following layer, or after the last
    one in the decoder's final `norm`. Gemma 2, of PaliGemma 2, normalises each sublayer's output
    itself.
    """
    layers = _decoder_layers(model)
    for index in _adapted_layers(model, config):
        name, layer = layers[index]
        if "attention" in config.sites:
            yield f"{name}.post_attention_layernorm"
        if "mlp" in config.sites:
            if hasattr(layer, "post_feedforward_layernorm"):
                yield f"{name}.post_feedforward_layernorm"
            elif index + 1 in layers:
                yield f"{layers[index + 1][0]}.input_layernorm"
            else:
                yield f"{name.removesuffix(f'.layers.{index}')}.norm"


def _decoder_layers(model: nn.Module) -> dict[int, tuple[str, nn.Module]]:
    """Index to name and module of each layer of the language decoder."""
    matches = ((DECODER_LAYER.fullmatch(name), module) for name, module in model.named_modules())
    layers = {int(match[1]): (match[0], module) for match, module in matches if match}
    if not layers:
        raise BottleneckError(
            f"{type(model).__name__} has no language_model.layers to adapt: use a PaliGemma model."
        )
    return layers


def _adapted_layers(model: nn.Module, config: BottleneckConfig) -> list[int]:
    count = len(_decoder_layers(model))
    indices = list(range(count)) if config.layers is None else config.layers
    if indices[-1] >= count:
        raise BottleneckError(
            f"The model has no decoder layer {indices[-1]}: choose layers from 0 to {count - 1}."
        )
    return indices
