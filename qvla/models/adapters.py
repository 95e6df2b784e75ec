"""Adapters of any PEFT method on views over a backbone's weights.

An adapter either fits wholly or is refused, and nothing that answers already changes: it is tried
on a view of its own (`views`), filled as PEFT itself fills it, and run once. Adapters that can
share a batch row by row may then join one view; every other keeps its own.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from qvla.errors import QvlaError
from qvla.faults import first_line, is_out_of_memory
from qvla.methods.registry import method_of
from qvla.models import int8_embedding, limits
from qvla.models.adapter_files import (
    CONFIG,
    WEIGHTS,
    AdapterError,
    AdapterFiles,
    method_name,
    read_adapter,
    told,
)
from qvla.models.adapter_filling import IN_8_BITS, fill
from qvla.models.families import family_of
from qvla.models.families.family import EMBEDDINGS
from qvla.models.views import own_bytes, view_of

if TYPE_CHECKING:
    from qvla.models.backbone import Backbone

__all__ = ["CONFIG", "WEIGHTS", "Adapter", "AdapterError", "join", "load_adapter"]


@dataclass
class Adapter:
    """An adapter that was tried and fits, on a view of its own.

    Attributes:
        model: the view, wrapped by PEFT; the adapter is active.
        name: within PEFT.
        own_bytes: of all that it holds beside the backbone's weights.
        changes_sight: whether the vision tower or the projector sees otherwise with it.
        mixes: whether it can be a row of a batch beside the base and others of its tuner.
    """

    files: AdapterFiles
    model: PeftModel
    name: str
    own_bytes: int
    changes_sight: bool
    mixes: bool


def load_adapter(backbone: Backbone, folder: str | Path, name: str) -> Adapter:
    """Loads a PEFT adapter by folder or hub id on a view over a bare backbone's weights.

    The backbone's model stays as it is. The adapter is frozen, in float32 where PEFT keeps
    adapters so, and everything is in evaluation mode.

    Raises:
        AdapterError: not a whole adapter, made for another size or model, or of a kind that does
            not work here or in this precision; the sentence says which.
    """
    files = read_adapter(folder)
    _check_tables(files, backbone)
    names = [path for path, _ in backbone.model.named_modules()]
    limits.check_patterns(files.values, names, AdapterError, files.folder)
    view = view_of(backbone.model)
    guard = _Guard(backbone.model, files.folder)
    try:
        model = PeftModel(view, copy.deepcopy(files.config), adapter_name=name)
        guard.check()
        has_own_base = fill(model, name, files)
        guard.check()
        model.requires_grad_(False)
        model.eval()
        touched = _touched(model, backbone)
        changes_sight = any(path.startswith(_sight(backbone)) for path in touched)
        _rehearse(model, backbone, changes_sight, files)
    except Exception as error:
        guard.restore()
        if isinstance(error, AdapterError):
            raise
        raise _unfit(error, files, backbone) from error
    mixes = not has_own_base and _mixes(model, files, touched, backbone)
    return Adapter(files, model, name, own_bytes(model, backbone.model), changes_sight, mixes)


def join(model: PeftModel, adapter: Adapter, name: str) -> None:
    """Gives a wrapped view a further adapter, which was tried alone and mixes.

    Raises AdapterError, and then the view is as it was.
    """
    try:
        model.add_adapter(name, copy.deepcopy(adapter.files.config))
        fill(model, name, adapter.files)
    except Exception as error:
        model.peft_config.setdefault(name, adapter.files.config)  # half-made, it may not be listed
        model.delete_adapter(name)
        if isinstance(error, AdapterError):
            raise
        raise told(error, adapter.files.folder) from error
    model.requires_grad_(False)
    model.eval()


# ---- what it does to the model ------------------------------------------------------------------


def _touched(model: PeftModel, backbone: Backbone) -> set[str]:
    """Paths, within the bare model, of what answers otherwise with the adapter."""
    held = {id(parameter) for parameter in backbone.model.parameters()}
    bare = model.get_base_model()
    own = {path for path, p in bare.named_parameters() if id(p) not in held}
    wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return own | {path for path, module in bare.named_modules() if isinstance(module, wrappers)}


def _sight(backbone: Backbone) -> tuple[str, ...]:
    return tuple(f"{path}." for path in family_of(backbone.model.config).sight)


def _mixes(model: PeftModel, files: AdapterFiles, touched: set[str], backbone: Backbone) -> bool:
    """Whether rows with the adapter, without it, and with others of its tuner can be one batch."""
    method = method_of(files.values)
    if method is None or not method.mixes:
        return False
    for module in model.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return False  # acts on every row
        if getattr(module, "lora_variant", None):  # one of LoRA's that has no entry here
            return False
    family = family_of(backbone.model.config)
    text = tuple(f"{path}." for path in family.text)
    tables = tuple(f"{path}." for path, part in family.parts.items() if part == EMBEDDINGS)
    return all(
        f"{path}.".startswith(text) and not f"{path}.".startswith(tables) for path in touched
    )


def _rehearse(
    model: PeftModel, backbone: Backbone, changes_sight: bool, files: AdapterFiles
) -> None:
    """Runs everything that the adapter changes once, on the shortest prompt.

    Some tuners take an adapter and fail, or compute what is no number, at the first forward: on
    layers of 4 bits, for instance.
    """
    family = family_of(backbone.model.config)
    device = backbone.device
    with torch.inference_mode():
        trial = family.trial(backbone.model)
        logits = model(**{name: tensor.to(device) for name, tensor in trial.items()}).logits
        finite = torch.isfinite(logits).all()
        if changes_sight:
            side = family.image_side(backbone.model.config)
            pixels = torch.zeros(1, 3, side, side, device=device)
            seen = family.image_features(model, pixels.to(backbone.model.dtype))
            finite = finite & torch.isfinite(seen).all()
    if not bool(finite):
        half = backbone.model.dtype is torch.float16
        raise AdapterError(
            f"{files.folder} makes this model answer with what is no finite number in "
            f"{backbone.precision.value}: {'use fp32' if half else 'train it again'}."
        )


def _check_tables(files: AdapterFiles, backbone: Backbone) -> None:
    """Refuses what trains an embedding table that is held in 8 bits here."""
    config = files.config
    trained = set(getattr(config, "modules_to_save", None) or ())
    if getattr(config, "trainable_token_indices", None):
        trained.add(family_of(backbone.model.config).embedding)
    tables = [path for path, _ in int8_embedding.tables(backbone.model)]
    if any(f".{path}".endswith(f".{name}") for path in tables for name in trained):
        raise AdapterError(IN_8_BITS.format(folder=files.folder))


def _unfit(error: Exception, files: AdapterFiles, backbone: Backbone) -> AdapterError:
    """What stands in the way, with the true reason where the method cannot do so few bits."""
    kind: Any = files.config.peft_type
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
    package = "" if tuner is None else tuner.__module__.rpartition(".")[0]
    precision = backbone.precision
    if precision.is_quantised and not isinstance(error, QvlaError) and not is_out_of_memory(error):
        has_layers = find_spec(f"{package}.bnb") is not None
        bits = 4 if precision.value == "nf4" else 8
        why = first_line(error) if has_layers else f"PEFT has no layers of {bits} bits for it"
        return AdapterError(
            f"{files.folder} is an adapter of the method {method_name(files.config)}, which does "
            f"not work on this model in {precision.value} ({why}): use it on a float base."
        )
    return told(error, files.folder)


class _Guard:
    """Sees to it that loading an adapter leaves the base's own weights where and what they are."""

    def __init__(self, model: nn.Module, folder: str) -> None:
        self._folder = folder
        self._held = [(parameter, parameter.data) for parameter in model.parameters()]

    def check(self) -> None:
        """Raises AdapterError when some weight of the base was replaced."""
        if any(parameter.data_ptr() != data.data_ptr() for parameter, data in self._held):
            raise AdapterError(
                f"{self._folder} alters the base's own weights when it is loaded, which is not "
                "supported here: choose another adapter."
            )

    def restore(self) -> None:
        for parameter, data in self._held:
            if parameter.data_ptr() != data.data_ptr():
                parameter.data = data
