"""Where in a model's language decoder the adapters go, by module name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from qvla.methods.bottleneck.config import SITES, BottleneckConfig, BottleneckError
from qvla.methods.bottleneck.layer import BottleneckLinear
from qvla.methods.tuner import chosen_layers, decoder_of


def projections(model: nn.Module, config: BottleneckConfig) -> Iterator[str]:
    """Names of the projections to wrap, each checked to be one that an adapter fits after."""
    path, layers = decoder_of(model, BottleneckError)
    for index in chosen_layers(layers, config.layers, BottleneckError):
        for site in config.sites:
            projection: Any = layers[index].get_submodule(SITES[site])
            if isinstance(projection, BottleneckLinear):
                projection = projection.get_base_layer()
            hidden = projection.out_features
            if hidden // config.reduction_factor < 1:
                raise BottleneckError(
                    f"A reduction factor of {config.reduction_factor} leaves no width at a hidden "
                    f"size of {hidden}: choose one of at most {hidden}."
                )
            yield f"{path}.layers.{index}.{SITES[site]}"


def norms(model: nn.Module, config: BottleneckConfig) -> Iterator[str]:
    """Names of the normalisation layers that come next after each adapter.

    In Gemma the MLP's output meets its next normalisation in the following layer, or after the last
    one in the decoder's final `norm`. Gemma 2, of PaliGemma 2, normalises each sublayer's output
    itself.
    """
    path, layers = decoder_of(model, BottleneckError)
    for index in chosen_layers(layers, config.layers, BottleneckError):
        if "attention" in config.sites:
            yield f"{path}.layers.{index}.post_attention_layernorm"
        if "mlp" in config.sites:
            if hasattr(layers[index], "post_feedforward_layernorm"):
                yield f"{path}.layers.{index}.post_feedforward_layernorm"
            elif index + 1 < len(layers):
                yield f"{path}.layers.{index + 1}.input_layernorm"
            else:
                yield f"{path}.norm"
