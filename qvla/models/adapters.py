"""Attaching an adapter to a backbone so that it fits wholly or changes nothing.

PEFT warns of missing adapter weights and leaves half-made modules behind when a size is wrong. So
each adapter is first fitted to a model of the same configuration on the meta device, which has
shapes but no memory, and touches the real model only when every tensor has its place.
"""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, PeftType
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PaliGemmaForConditionalGeneration

from qvla.errors import QvlaError
from qvla.faults import first_line, is_out_of_memory
from qvla.hub import local_folder

if TYPE_CHECKING:
    from qvla.models.backbone import Backbone

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

Weights = dict[str, torch.Tensor]


class AdapterError(QvlaError):
    """An adapter cannot be attached: one sentence that says why and what to do."""


def attach_adapter(
    backbone: Backbone, folder: str | Path, adapter_name: str, *, in_place_of_all: bool = False
) -> None:
    """Loads a PEFT adapter by folder or hub id and makes it known under `adapter_name`.

    The first adapter wraps `backbone.model` in a PeftModel and is active; later ones join it. An
    adapter that has the name already is replaced, and stays if the new one is bad. One of another
    kind than those that are there is refused, or, `in_place_of_all`, takes the place of all. The
    model is left in evaluation mode, the adapter frozen, in float32 as PEFT keeps adapters.

    Raises:
        AdapterError: not a whole adapter, made for another size or model, or of a kind that cannot
            be attached here; the backbone is then as it was.
    """
    source = local_folder(folder, (CONFIG, WEIGHTS), AdapterError)
    config = _read_config(source, folder)
    weights = _read_weights(source, folder)
    _rehearse(backbone, adapter_name, config, weights, folder)
    model = backbone.model
    if not isinstance(model, PeftModel):
        backbone.model = _wrap(model, adapter_name, config, weights, folder)
    elif config.peft_type != model.peft_type and in_place_of_all:
        _take_over(backbone, adapter_name, config, weights, folder)
    elif config.peft_type != model.peft_type:
        raise AdapterError(
            f"{folder} is a {_word(config.peft_type)} adapter and this model carries "
            f"{_word(model.peft_type)} adapters, which cannot be mixed: choose one of that kind."
        )
    elif adapter_name in model.peft_config:
        _replace(model, adapter_name, config, weights, folder)
    else:
        _join(model, adapter_name, config, weights, folder)
    backbone.model.eval()


def detach_adapters(backbone: Backbone) -> None:
    """Takes all adapters off, so that one of another kind can come; the base is as it was."""
    if isinstance(backbone.model, PeftModel):
        base = backbone.model.get_base_model()
        _unwrap(base)
        backbone.model = base
        base.eval()


def _unwrap(model: nn.Module) -> None:
    """Puts the model's own modules back in the places of PEFT's."""
    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            model.set_submodule(path, module.get_base_layer())
        elif isinstance(module, AuxiliaryTrainingWrapper):
            model.set_submodule(path, module.original_module)
    vars(model).pop("peft_config", None)


def _wrap(
    model: nn.Module, name: str, config: PeftConfig, weights: Weights, folder: str | Path
) -> PeftModel:
    try:
        wrapped = PeftModel(model, config, adapter_name=name)
        set_peft_model_state_dict(wrapped, weights, adapter_name=name)
    except Exception as error:
        _unwrap(model)
        raise _told(error, folder) from error
    return wrapped


def _join(
    model: PeftModel, name: str, config: PeftConfig, weights: Weights, folder: str | Path
) -> None:
    try:
        model.add_adapter(name, config)
        set_peft_model_state_dict(model, weights, adapter_name=name)
    except Exception as error:
        model.peft_config.setdefault(name, config)  # half-made, it may not be listed
        model.delete_adapter(name)
        raise _told(error, folder) from error


def _replace(
    model: PeftModel, name: str, config: PeftConfig, weights: Weights, folder: str | Path
) -> None:
    """Puts the new adapter under the old one's name; whatever fails, the old one is put back."""
    old_config, active = model.peft_config[name], model.active_adapters
    old = {key: tensor.detach() for key, tensor in _adapter_tensors(model, name).items()}
    model.delete_adapter(name)
    try:
        _join(model, name, config, weights, folder)
    except AdapterError:
        _join(model, name, old_config, old, folder)
        raise
    finally:
        if active:
            model.set_adapter(active if len(active) > 1 else active[0], inference_mode=True)


def _take_over(
    backbone: Backbone, name: str, config: PeftConfig, weights: Weights, folder: str | Path
) -> None:
    """Puts the new adapter in the place of all; whatever fails, those are put back."""
    model, active = backbone.model, backbone.model.active_adapters
    old = {
        one: (own, {key: tensor.detach() for key, tensor in _adapter_tensors(model, one).items()})
        for one, own in model.peft_config.items()
    }
    detach_adapters(backbone)
    try:
        backbone.model = _wrap(backbone.model, name, config, weights, folder)
    except AdapterError:
        for one, (own, tensors) in old.items():
            if isinstance(backbone.model, PeftModel):
                _join(backbone.model, one, own, tensors, folder)
            else:
                backbone.model = _wrap(backbone.model, one, own, tensors, folder)
        backbone.model.set_adapter(active if len(active) > 1 else active[0], inference_mode=True)
        raise


def _read_config(source: Path, folder: str | Path) -> PeftConfig:
    import qvla.methods.bottleneck  # noqa: F401  (makes the method known to PEFT)

    if not (source / CONFIG).is_file():
        raise AdapterError(
            f"{folder} is not an adapter, it has no {CONFIG}: choose another folder."
        )
    try:
        values = json.loads((source / CONFIG).read_text(encoding="utf-8"))
        kind = values["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{folder} has a damaged {CONFIG}: save or fetch it again.") from error
    if kind not in PeftType.__members__:
        raise AdapterError(f"{folder} is an adapter of an unknown method, {kind!r}.")
    try:
        config = PeftConfig.from_pretrained(str(source))
    except QvlaError as error:
        raise AdapterError(f"{folder} cannot be used: {error}") from error
    except Exception as error:  # any kind: the file's values go into constructors unchecked
        log.info("Reading %s failed.", folder, exc_info=True)
        raise AdapterError(
            f"{folder} has a {CONFIG} that PEFT cannot read ({type(error).__name__}): save or "
            "fetch it again."
        ) from error
    _refuse_what_changes_the_base(config, folder)
    config.inference_mode = True
    return config


def _refuse_what_changes_the_base(config: PeftConfig, folder: str | Path) -> None:
    """The base answers beside its adapters, so none may alter the base's own weights."""
    start = getattr(config, "init_lora_weights", True)
    alters = getattr(config, "bias", "none") != "none" or not (
        isinstance(start, bool) or start == "gaussian"
    )
    if config.is_prompt_learning or config.is_adaption_prompt or alters:
        raise AdapterError(
            f"{folder} is an adapter that changes more than its own weights or the prompt, which "
            "is not supported here: use a bottleneck or plain LoRA adapter."
        )


def _read_weights(source: Path, folder: str | Path) -> Weights:
    if not (source / WEIGHTS).is_file():
        also = " only weights in a pickle file, which could run code when read, and"
        pickled = also if (source / "adapter_model.bin").is_file() else ""
        raise AdapterError(f"{folder} has{pickled} no {WEIGHTS}: save the adapter as safetensors.")
    try:
        return load_file(source / WEIGHTS)
    except (SafetensorError, OSError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _told(error, folder) from error
        raise AdapterError(
            f"{folder} has a damaged or truncated {WEIGHTS}: save or fetch it again."
        ) from error


def _rehearse(
    backbone: Backbone, name: str, config: PeftConfig, weights: Weights, folder: str | Path
) -> None:
    """Fits the adapter to a model of the same configuration that has no memory."""
    try:
        with torch.device("meta"):
            skeleton = PaliGemmaForConditionalGeneration(copy.deepcopy(backbone.model.config))
            stand_in = PeftModel(skeleton, copy.deepcopy(config), adapter_name=name)
        due = _adapter_tensors(stand_in, name)
    except Exception as error:
        raise _told(error, folder) from error
    missing, unknown = sorted(due.keys() - weights.keys()), sorted(weights.keys() - due.keys())
    for key in sorted(due.keys() & weights.keys()):
        if due[key].shape != weights[key].shape:
            raise AdapterError(
                f"{folder} was made for a model of another size: its {_short(key)} is "
                f"{tuple(weights[key].shape)} where {tuple(due[key].shape)} is due; choose an "
                "adapter made for this model."
            )
    for kind, keys in (("lacks", missing), ("has unknown", unknown)):
        if keys:
            raise AdapterError(
                f"{folder} {kind} weights for this model, {len(keys)} in all, such as "
                f"{_short(keys[0])}: choose an adapter made for this model."
            )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise AdapterError(f"{folder} has weights that are no finite numbers: train it again.")


def _adapter_tensors(model: PeftModel, name: str) -> Weights:
    """One adapter's tensors under the keys of its file."""
    return get_peft_model_state_dict(
        model,
        state_dict=dict(model.named_parameters()),  # state_dict() would unpack NF4 layers
        adapter_name=name,
        save_embedding_layers=False,
    )


def _told(error: Exception, folder: str | Path) -> AdapterError:
    if isinstance(error, QvlaError):
        return AdapterError(f"{folder} cannot be attached: {error}")
    log.info("Attaching %s failed.", folder, exc_info=True)
    if is_out_of_memory(error):
        return AdapterError(f"There is not enough memory for {folder}: choose a smaller adapter.")
    return AdapterError(
        f"{folder} does not fit this model ({first_line(error)}): choose an adapter made for it."
    )


def _word(peft_type: Any) -> str:
    return str(getattr(peft_type, "value", peft_type)).lower()


def _short(key: str) -> str:
    return key.removeprefix("base_model.model.")
