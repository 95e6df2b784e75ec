"""Where in a model's language decoder the adapters go, by module name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from qvla.methods.bottleneck.config import SITES, BottleneckConfig, BottleneckError
from qvla.methods.bottleneck.layer import BottleneckLinear


def projections(model: nn.Module, config: BottleneckConfig) -> Iterator[str]:
    """Names of the projections to wrap, each checked to be one that an adapter fits after."""
    path, layers = _decoder(model)
    for index in _adapted_layers(layers, config):
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
    path, layers = _decoder(model)
    for index in _adapted_layers(layers, config):
        if "attention" in config.sites:
            yield f"{path}.layers.{index}.post_attention_layernorm"
        if "mlp" in config.sites:
            if hasattr(layers[index], "post_feedforward_layernorm"):
                yield f"{path}.layers.{index}.post_feedforward_layernorm"
            elif index + 1 < len(layers):
                yield f"{path}.layers.{index + 1}.input_layernorm"
            else:
                yield f"{path}.norm"


def _decoder(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and layers of the language decoder of a vision-language model, and of no other's.

    Transformers knows where it lies. A tuner may be handed the model in a wrapping of its own.
    """
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        if not hasattr(module, "get_decoder") or getattr(config, "vision_config", None) is None:
            continue
        decoder = module.get_decoder()
        path = next((own for own, one in module.named_modules() if one is decoder), "")
        layers = getattr(decoder, "layers", None)
        if path and isinstance(layers, nn.ModuleList):
            return f"{name}.{path}" if name else path, layers
    raise BottleneckError(
        f"{type(model).__name__} has no language decoder beside a vision tower to adapt: use a "
        "vision-language model such as PaliGemma."
    )


def _adapted_layers(layers: nn.ModuleList, config: BottleneckConfig) -> list[int]:
    count = len(layers)
    indices = list(range(count)) if config.layers is None else config.layers
    if indices[-1] >= count:
        raise BottleneckError(
            f"The model has no decoder layer {indices[-1]}: choose layers from 0 to {count - 1}."
        )
    return indices
