"""An adapter file's tensors put where they belong in a wrapped model: all of them, and no others.

PEFT warns of missing weights and passes over unknown ones; here both are refused. The base's own
weights are never written: a view that needs others than its base gets copies (`views.give_own`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel, PeftType, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from qvla.models import nf4
from qvla.models.adapter_files import AdapterError, AdapterFiles, Weights
from qvla.models.int8_embedding import Int8Embedding, Int8Head
from qvla.models.views import give_own

PREFIX = "base_model.model."  # of every module of the model within a PeftModel
# Steps of an int8 table between it and what it was made from: half for rounding to it, and for the
# rounding to bfloat16 of the largest value, 127 steps, and of the step itself.
NEAR = 0.5 + 2 * 127 * 2**-9
IN_8_BITS = (
    "{folder} brings an embedding table of its own, and this model holds its table in 8 bits: set "
    "QVLA_NF4_EMBEDDINGS=bf16 to use it."
)


def fill(model: PeftModel, name: str, files: AdapterFiles) -> bool:
    """The file's tensors into the adapter of a wrapped view: all of them, and no others.

    Returns whether the view got weights of the base of its own for that.
    """
    if _resizes(files):
        _name_ranks(model, name)
    due = _due(model, name)
    weights = _renamed(files.weights, due, model)
    weights, has_own_base = _without_base(weights, due, model, files.folder)
    missing, unknown = sorted(due.keys() - weights.keys()), sorted(weights.keys() - due.keys())
    for key in sorted(due.keys() & weights.keys()):
        if due[key].shape != weights[key].shape and not _resizes(files):
            if _is_packed(due[key], weights[key], model):
                raise ValueError("its matrices are made for weights that are not packed")
            raise AdapterError(
                f"{files.folder} was made for a model of another size: its {_short(key)} is "
                f"{tuple(weights[key].shape)} where {tuple(due[key].shape)} is due; choose an "
                "adapter made for this model."
            )
    for kind, keys in (("lacks", missing), ("has unknown", unknown)):
        if keys:
            raise AdapterError(
                f"{files.folder} {kind} weights for this model, {len(keys)} in all, such as "
                f"{_short(keys[0])}: choose an adapter made for this model."
            )
    set_peft_model_state_dict(model, weights, adapter_name=name)
    return has_own_base


def _due(model: PeftModel, name: str) -> Weights:
    """One adapter's tensors under the keys of its file."""
    # Not state_dict(), which would unpack NF4 layers.
    state = dict(model.named_parameters(remove_duplicate=False)) | dict(_kept_buffers(model))
    config: Any = model.peft_config[name]
    cut = config.rank_pattern if config.peft_type == PeftType.ADALORA else None
    if cut is not None:  # which the file's tensors are already, and PEFT would do here
        config.rank_pattern = None
    due = get_peft_model_state_dict(
        model, state_dict=state, adapter_name=name, save_embedding_layers=False
    )
    if cut is not None:
        config.rank_pattern = cut
    return due


def _kept_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that are saved with a model, such as VeRA's projections."""
    for path, module in model.named_modules(remove_duplicate=False):
        for name, buffer in module.named_buffers(path, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def _renamed(weights: Weights, due: Weights, model: PeftModel) -> Weights:
    """Keys of other versions of Transformers, which named the model's modules otherwise.

    The renaming is Transformers' own for this model's checkpoints. PEFT applies it to LoRA alone.
    """
    base: Any = model.get_base_model()
    conversions = get_model_conversion_mapping(base)
    renamings = [one for one in conversions or () if isinstance(one, WeightRenaming)]
    result = {}
    for key, tensor in weights.items():
        if key not in due and key.startswith(PREFIX):
            inner, _ = rename_source_key(key.removeprefix(PREFIX), renamings, [])
            key = PREFIX + inner.removeprefix(PREFIX)
        result[key] = tensor
    return result


def _without_base(
    weights: Weights, due: Weights, model: PeftModel, folder: str
) -> tuple[Weights, bool]:
    """The weights but for those of the base that PEFT stores beside adapters of embeddings.

    Where they are the base's own, nothing is to be done. Where they are not, the view gets weights
    of its own, because others answer from the base's; so it does for trained biases, which are due.
    Returns also whether it did.
    """
    base = {
        name: parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if ".base_layer." in name or name in due
    }
    own, kept = {}, {}
    for key, tensor in weights.items():
        parameter = base.get(key)
        if parameter is None:
            kept[key] = tensor
            continue
        module = model.get_submodule(key.rpartition(".")[0])
        if _is_same(module, parameter, tensor, key, folder):
            if key in due:
                kept[key] = tensor
            continue
        own[key] = parameter
        kept[key] = tensor
    give_own(model, own.values())
    with torch.no_grad():
        for key in own:
            if key not in due:
                path, _, attribute = key.rpartition(".")
                getattr(model.get_submodule(path), attribute).copy_(kept.pop(key))
    return kept, bool(own)


def _is_same(
    module: nn.Module, parameter: nn.Parameter, tensor: torch.Tensor, key: str, folder: str
) -> bool:
    """Whether a stored weight of the base is the one that the base has here."""
    if isinstance(module, (Int8Embedding, Int8Head)):
        held = parameter.float() * module.scale[:, None].float()
        near = module.scale[:, None].float() * NEAR
        if held.shape == tensor.shape:
            apart = (held - tensor.to(held.device).float()).abs()
            if bool((apart <= near).all()):
                return True
        raise AdapterError(IN_8_BITS.format(folder=folder))
    if parameter.shape != tensor.shape or not parameter.is_floating_point():
        raise AdapterError(
            f"{folder} brings weights of a base of another size or precision ({_short(key)}): "
            "choose an adapter made for this model."
        )
    return torch.equal(parameter, tensor.to(parameter.device, parameter.dtype))


def _is_packed(due: torch.Tensor, stored: torch.Tensor, model: nn.Module) -> bool:
    """Whether a tuner took the packed bytes of a layer of 4 bits for the shape of its weights."""
    packed = {size for _, layer in nf4.layers(model) for size in layer.weight.shape}
    return bool((set(due.shape) & packed) - set(stored.shape))


def _resizes(files: AdapterFiles) -> bool:
    """AdaLoRA prunes ranks while it trains, and PEFT resizes its layers to the file's."""
    return files.config.peft_type == PeftType.ADALORA


def _name_ranks(model: PeftModel, name: str) -> None:
    """Gives the ranks that AdaLoRA left the adapter's name, as PEFT has them in training.

    Without it PEFT (0.21) looks whether the name occurs anywhere in the path of a layer, and takes
    `own` to be in `down_proj`.
    """
    config: Any = model.peft_config[name]
    if config.rank_pattern is not None:
        config.rank_pattern = {
            f"{path.partition('.lora_E')[0]}.lora_E.{name}": kept
            for path, kept in config.rank_pattern.items()
        }


def _short(key: str) -> str:
    return key.removeprefix(PREFIX)
