"""Where in a model's towers the adapters go, by module name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from qvla.methods.bottleneck.config import SITES, VISION_SITES, BottleneckConfig, BottleneckError
from qvla.methods.bottleneck.layer import BottleneckLinear
from qvla.methods.tuner import chosen_layers, decoder_of


@dataclass(frozen=True)
class Tower:
    """The layers of one tower, by name, and what comes next after each of their sublayers."""

    path: str  # of the module that holds the layers' list
    layers: nn.ModuleList
    within: str  # the list's name there
    adapted: list[int]
    sites: Mapping[str, str]
    after_attention: str  # the norm in the same layer
    after_mlp: str  # the norm in the next layer
    last: str  # the norm after the last layer, beside the list

    def layer(self, index: int) -> str:
        return f"{self.path}.{self.within}.{index}"


def projections(model: nn.Module, config: BottleneckConfig) -> Iterator[str]:
    """Names of the projections to wrap, each checked to be one that an adapter fits after."""
    for tower in _towers(model, config):
        for index in tower.adapted:
            for site in config.sites:
                projection: Any = tower.layers[index].get_submodule(tower.sites[site])
                if isinstance(projection, BottleneckLinear):
                    projection = projection.get_base_layer()
                hidden = projection.out_features
                if hidden // config.reduction_factor < 1:
                    raise BottleneckError(
                        f"A reduction factor of {config.reduction_factor} leaves no width at a "
                        f"hidden size of {hidden}: choose one of at most {hidden}."
                    )
                yield f"{tower.layer(index)}.{tower.sites[site]}"


def norms(model: nn.Module, config: BottleneckConfig) -> Iterator[str]:
    """Names of the normalisation layers that come next after each adapter.

    In Gemma the MLP's output meets its next normalisation in the following layer, or after the last
    one in the decoder's final `norm`; SigLIP is alike. Gemma 2, of PaliGemma 2, normalises each
    sublayer's output itself.
    """
    for tower in _towers(model, config):
        for index in tower.adapted:
            if "attention" in config.sites:
                yield f"{tower.layer(index)}.{tower.after_attention}"
            if "mlp" in config.sites:
                if hasattr(tower.layers[index], "post_feedforward_layernorm"):
                    yield f"{tower.layer(index)}.post_feedforward_layernorm"
                elif index + 1 < len(tower.layers):
                    yield f"{tower.layer(index + 1)}.{tower.after_mlp}"
                else:
                    yield f"{tower.path}.{tower.last}"


def _towers(model: nn.Module, config: BottleneckConfig) -> Iterator[Tower]:
    """The towers of a vision-language model that have adapters."""
    path, layers = decoder_of(model, BottleneckError)
    if config.layers is None or config.layers:
        yield Tower(
            path=path,
            layers=layers,
            within="layers",
            adapted=chosen_layers(layers, config.layers, BottleneckError),
            sites=SITES,
            after_attention="post_attention_layernorm",
            after_mlp="input_layernorm",
            last="norm",
        )
    if config.vision_layers:
        path, layers = _vision_of(model)
        yield Tower(
            path=path,
            layers=layers,
            within="encoder.layers",
            adapted=chosen_layers(layers, config.vision_layers, BottleneckError, "vision"),
            sites=VISION_SITES,
            after_attention="layer_norm2",
            after_mlp="layer_norm1",
            last="post_layernorm",
        )


def _vision_of(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and layers of the vision tower, by the norms that SigLIP's and CLIP's layers have."""
    for name, module in model.named_modules():
        encoder = getattr(module, "encoder", None)
        layers = getattr(encoder, "layers", None)
        if isinstance(layers, nn.ModuleList) and hasattr(layers[0], "layer_norm1"):
            return name, layers
    raise BottleneckError(
        f"{type(model).__name__} has no vision tower whose layers are known here: leave "
        "vision_layers out."
    )
