"""The tuner: finds the sites in a model, wraps them, and keeps PEFT's promises about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from qvla.methods.bottleneck.config import SITES, BottleneckConfig, BottleneckError
from qvla.methods.bottleneck.layer import (
    BASE,
    MERGE_REFUSAL,
    BottleneckLayer,
    BottleneckLinear,
    BottleneckNorm,
    MixedBatch,
)
from qvla.methods.bottleneck.sites import norms, projections
from qvla.methods.method import AdapterCount


class BottleneckModel(BaseTuner):
    """Puts bottleneck adapters into the language decoder of a vision-language model.

    Use it through `peft.get_peft_model` or `peft.PeftModel.from_pretrained`.
    """

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

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

    def _prepare_adapter_config(
        self, peft_config: Any, model_config: dict[str, Any]
    ) -> BottleneckConfig:
        return peft_config  # layers and sites name the targets; there is nothing to infer

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        # All checks come here, before the first module is replaced.
        self._targets = set(projections(model, peft_config))
        if peft_config.train_norms:
            self._targets.update(norms(model, peft_config))

    def _check_target_module_exists(  # type: ignore[override] # PEFT has it as a static one
        self, peft_config: Any, key: str
    ) -> bool:
        return key in self._targets

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        is_projection = current_key.endswith(tuple(SITES.values()))
        layer = BottleneckLinear(target) if is_projection else BottleneckNorm(target)
        layer.update_layer(adapter_name, peft_config)
        self._replace_module(parent, target_name, layer, target)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Makes one adapter the active one; several at once are for `adapter_names` of a call."""
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise BottleneckError(
                "Only one bottleneck adapter can be active at a time; to use several, give each "
                "row of the batch its own with adapter_names."
            )
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    def _check_merge_allowed(self) -> None:
        raise BottleneckError(MERGE_REFUSAL)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Honours `adapter_names`, one a row, for the time of one `forward` or `generate`.

        Like PEFT's active adapter, the names belong to the model: one call at a time.
        """
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        self._check_names(names, _batch_size(args, kwargs))
        layers = [module for module in self.modules() if isinstance(module, BottleneckLayer)]
        mixed_batch = MixedBatch(names)
        for layer in layers:
            layer.mixed_batch = mixed_batch
        try:
            yield
        finally:
            for layer in layers:
                layer.mixed_batch = None

    def _check_names(self, names: Sequence[str], batch_size: int | None) -> None:
        if isinstance(names, str) or not names:
            raise BottleneckError("adapter_names must be a list with one name for each row.")
        if self.training:
            # Checkpointed layers run again in the backward pass, when the names are gone.
            raise BottleneckError(
                "adapter_names works only for inference: call eval() on the model first, or train "
                "one adapter at a time with set_adapter()."
            )
        unknown = sorted(set(names) - {BASE} - set(self.peft_config))
        if unknown:
            raise BottleneckError(
                f"There is no adapter {unknown[0]!r}: loaded are "
                f"{', '.join([*self.peft_config, BASE])}."
            )
        if batch_size is not None and batch_size != len(names):
            raise BottleneckError(
                f"The batch has {batch_size} rows but adapter_names has {len(names)}: give one "
                "name a row."
            )

    def state_dict(  # type: ignore[override] # PyTorch declares each way to call it
        self, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """As in PyTorch, but leaves NF4 weights as they were.

        On AVX-512, bitsandbytes (0.50.2) repacks a 4-bit weight at its first forward and unpacks it
        when its state is asked for, which rounds its scales anew: saving an adapter would change
        the base's answers. Asking the bare base for its state is not guarded.
        """
        packed = []
        for weight in self.parameters():
            state = getattr(weight, "quant_state", None)
            if getattr(state, "packing_format_for_cpu", False):
                packed.append((weight, weight.data, state, vars(state).copy()))
        try:
            return super().state_dict(*args, **kwargs)
        finally:
            for weight, data, state, fields in packed:
                weight.data = data
                vars(state).clear()
                vars(state).update(fields)

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


def _batch_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Rows that the caller passes, where that can be told; `generate` may repeat them later."""
    inputs = [kwargs.get(name) for name in ("input_ids", "inputs", "inputs_embeds")]
    tensors = [value for value in [*inputs, *args] if isinstance(value, torch.Tensor)]
    return len(tensors[0]) if tensors else None
