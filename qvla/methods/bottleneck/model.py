"""The tuner: finds the sites in a model, wraps them, and keeps PEFT's promises about them."""

from __future__ import annotations

from typing import Any

import torch
from peft.config import PeftConfig
from torch import nn

from qvla.methods.bottleneck.config import SITES, VISION_SITES, BottleneckError
from qvla.methods.bottleneck.layer import (
    MERGE_REFUSAL,
    BottleneckLayer,
    BottleneckLinear,
    BottleneckNorm,
)
from qvla.methods.bottleneck.sites import norms, projections
from qvla.methods.method import AdapterCount
from qvla.methods.rows import BASE, RowTuner


class BottleneckModel(RowTuner):
    """Puts bottleneck adapters into the towers of a vision-language model.

    Use it through `peft.get_peft_model` or `peft.PeftModel.from_pretrained`.
    """

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    fault = BottleneckError
    merge_refusal = MERGE_REFUSAL

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """As in PEFT, but refuses a name by which PEFT could not tell the adapter's weights."""
        names = [name for name, _ in model.named_parameters() if self.prefix not in name]
        taken = {part for name in names for part in name.split(".")}
        if adapter_name in taken | {BASE, "down", "up"}:
            raise BottleneckError(
                f"An adapter cannot be called {adapter_name!r}, a name used inside the model: "
                "choose another."
            )
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def targets(self, model: nn.Module, config: Any) -> list[str]:
        after = norms(model, config) if config.train_norms else ()
        return [*projections(model, config), *after]

    def layer_for(self, target: nn.Module, name: str) -> BottleneckLayer:
        is_projection = name.endswith((*SITES.values(), *VISION_SITES.values()))
        return BottleneckLinear(target) if is_projection else BottleneckNorm(target)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Makes one adapter the active one; several at once are for `adapter_names` of a call."""
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise BottleneckError(
                "Only one bottleneck adapter can be active at a time; to use several, give each "
                "row of the batch its own with adapter_names."
            )
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # PEFT looks for the name only next to the key's end; an adapter's projections lie deeper.
        for kind in BottleneckLinear.adapter_layer_names + BottleneckNorm.adapter_layer_names:
            key = key.replace(f".{kind}.{adapter_name}.", f".{kind}.")
        return key

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """The file's names to the model's, refusing weights that do not fit.

        PEFT only warns of missing weights, and asks for the whole model's state to find the names.
        """
        expected = _adapter_shapes(model, adapter_name)
        names = {cls._remove_adapter_name_from_key(name, adapter_name): name for name in expected}
        weights = {names.get(name, name): weight for name, weight in state_dict.items()}
        found = {name: weight.shape for name, weight in weights.items()}
        if missing := len(expected.keys() - found.keys()):
            raise BottleneckError(
                f"The adapter's weights are incomplete, {missing} of {len(expected)} tensors are "
                "missing: choose an adapter made for this model, or save it again."
            )
        if unexpected := sorted(found.keys() - expected.keys()):
            raise BottleneckError(
                f"The adapter's file holds weights that this model has no place for, such as "
                f"{unexpected[0]}: choose an adapter made for this model."
            )
        for name, shape in expected.items():
            if found[name] != shape:
                raise BottleneckError(
                    f"The adapter was made for another size: {name} is {tuple(found[name])} in the "
                    f"file and {tuple(shape)} in this model; choose one made for this model."
                )
        return weights


def count_parameters(model: nn.Module, adapter_name: str | None = None) -> AdapterCount:
    """Counts one adapter of a model, the first one by default, whether it is frozen now or not.

    Raises:
        BottleneckError: the model has no bottleneck adapter, or none of that name.
    """
    names = list(getattr(model, "peft_config", None) or {})
    chosen = str(names[0] if adapter_name is None and names else adapter_name)
    bottlenecks, trained_norms = [], []
    for layer in model.modules():
        if isinstance(layer, BottleneckLinear) and chosen in layer.bottleneck_adapter:
            bottlenecks.append(layer.bottleneck_adapter[chosen])
        elif isinstance(layer, BottleneckNorm) and chosen in layer.bottleneck_norm:
            trained_norms.append(layer.bottleneck_norm[chosen])
    if not bottlenecks:
        raise BottleneckError(
            f"The model has no bottleneck adapter {chosen!r}: loaded are "
            f"{', '.join(names) or 'none'}."
        )
    return AdapterCount(_count(bottlenecks), _count(trained_norms), len(bottlenecks))


def _count(modules: list[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _adapter_shapes(model: nn.Module, adapter_name: str) -> dict[str, torch.Size]:
    """Name to shape of every tensor of one adapter, as the model's own state names them."""
    shapes = {}
    for layer_name, layer in model.named_modules():
        if not isinstance(layer, BottleneckLayer):
            continue
        kind = layer.adapter_layer_names[0]
        modules = getattr(layer, kind)
        if adapter_name in modules:
            for name, parameter in modules[adapter_name].named_parameters():
                shapes[f"{layer_name}.{kind}.{adapter_name}.{name}"] = parameter.shape
    return shapes
