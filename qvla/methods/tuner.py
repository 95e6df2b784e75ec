"""What PEFT methods of our own share: a place among PEFT's methods, and the tuner around them.

A method of ours is a configuration, a layer that wraps a module of the base, and a tuner that says
which modules those are. Whatever else PEFT asks of a method is answered here, once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from reprlib import repr as shortened
from typing import Any, ClassVar

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType
from torch import nn

from qvla.errors import QvlaError


class TunerError(QvlaError, ValueError):
    """An adapter was asked for something that it cannot do; says what and what to do."""


def peft_type_named(name: str) -> PeftType:
    """A member of PEFT's enumeration of methods, added where it is not one yet.

    PEFT has no public way to do that: `register_peft_method` accepts only names that are members
    already. Looking a member up by name goes through the class's own attributes on Python 3.12 and
    later, through the maps before.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType  # type: ignore[attr-defined] # as Enum does itself
    member._sort_order_ = len(PeftType)  # type: ignore[attr-defined] # as Enum does itself
    setattr(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    return member


class OwnLayer(nn.Module, BaseTunerLayer):
    """A module of the base, wrapped; PEFT keeps each adapter's weights under its name."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters: list[str] = []

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Adds an adapter."""
        raise NotImplementedError

    def answering(self) -> list[str]:
        """Names of the adapters that answer now, of those that this layer has."""
        if self.disable_adapters:
            return []
        table = getattr(self, self.adapter_layer_names[0])
        return [name for name in self.active_adapters if name in table]

    def _ready(self, adapter_name: str, config: Any) -> None:
        """To be called when an adapter's weights are there."""
        device = next(self.get_base_layer().parameters()).device
        self._move_adapter_to_device_of_base_layer(adapter_name, device)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)


class OwnTuner(BaseTuner):
    """A tuner whose configuration alone says which modules it wraps."""

    tuner_layer_cls: type[OwnLayer]
    fault: ClassVar[type[TunerError]] = TunerError
    merge_refusal: ClassVar[str | None] = None  # why it cannot be merged, where it cannot

    @abstractmethod
    def targets(self, model: nn.Module, config: Any) -> Iterable[str]:
        """Names of the modules to wrap; raises `fault` for what the model has no place for."""

    def layer_for(self, target: nn.Module, name: str) -> OwnLayer:
        """The wrapper of a module."""
        return self.tuner_layer_cls(target)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # there is nothing to infer

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        # All checks come here, before the first module is replaced.
        self._targets = set(self.targets(model, peft_config))

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
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config)
            return
        layer = self.layer_for(target, current_key)
        layer.update_layer(adapter_name, peft_config)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        # PEFT's takes every wrapped module for one with a weight, and moves what `_ready` has.
        setattr(parent, child_name, new_module)

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        self._check_merge_allowed()
        super().merge_adapter(*args, **kwargs)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise self.fault(
                "Adapters of this method cannot share a batch row by row: choose one for all of "
                "it with set_adapter()."
            )
        yield

    def _check_merge_allowed(self) -> None:
        if self.merge_refusal is not None:
            raise self.fault(self.merge_refusal)

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


def decoder_of(model: nn.Module, fault: type[TunerError]) -> tuple[str, nn.ModuleList]:
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
    raise fault(
        f"{type(model).__name__} has no language decoder beside a vision tower to adapt: use a "
        "vision-language model such as PaliGemma."
    )


def chosen_layers(
    layers: nn.ModuleList,
    chosen: list[int] | None,
    fault: type[TunerError],
    tower: str = "decoder",
) -> list[int]:
    """Indices of a tower's layers to adapt; raises `fault` for one that is not there."""
    count = len(layers)
    indices = list(range(count)) if chosen is None else chosen
    if indices[-1] >= count:
        raise fault(
            f"The model has no {tower} layer {indices[-1]}: choose layers from 0 to {count - 1}."
        )
    return indices


def checked_layers(
    layers: Any, fault: type[TunerError], tower: str = "decoder"
) -> list[int] | None:
    """A configuration's `layers`, sorted and each once; None, for all, stays None."""
    if layers is None:
        return None
    found = [layers] if isinstance(layers, int) else list(layers)
    if not found or not all(is_whole(layer) and layer >= 0 for layer in found):
        raise fault(
            f"Layers must be one or more indices of {tower} layers counted from 0, or None for "
            f"all, not {shortened(layers)}."
        )
    return sorted(set(found))


def checked_count(what: str, value: Any, fault: type[TunerError]) -> int:
    """A whole number of at least 1; `what` begins the sentence of the refusal."""
    if not is_whole(value) or value < 1:
        raise fault(f"{what} must be a whole number of at least 1, not {shortened(value)}.")
    return int(value)


def checked_spread(value: Any, fault: type[TunerError]) -> float:
    """A standard deviation of initial weights."""
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise fault(
            "The standard deviation of the initial weights must be a number of at least 0, not "
            f"{shortened(value)}."
        )
    return value


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
