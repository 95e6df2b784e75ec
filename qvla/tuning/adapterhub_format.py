"""The format in which AdapterHub's library `adapters` keeps a bottleneck adapter.

Reads a checkpoint's folder and refuses, in one sentence, whatever our bottleneck does not compute.
What is relied on, all of github.com/adapter-hub/adapters under src/adapters:

- utils.py, loading.py (`AdapterLoader`): the names of the files; only weights whose names have
  `.adapters.NAME.` in them are saved, so no normalisation layer of the model is.
- configuration/adapter_config.py (`BnConfig`, `DoubleSeqBnConfig`): the fields and their defaults.
- methods/bottleneck.py (`init_bottleneck`): forward hooks on the attention's and on the layer's
  output projection put `attention_adapters` and `output_adapters` after them. A hooked adapter's
  `original_ln_after` is ignored, as the decoder adds its own residual.
- methods/modeling.py (`Adapter`): with `original_ln_before` false the adapter's input and its
  residual both are the projection's output o, which becomes o + scaling * up(activation(down(o))).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from qvla.errors import QvlaError
from qvla.files import parse_json
from qvla.models.adapters import CONFIG

log = logging.getLogger(__name__)

Weights = dict[str, torch.Tensor]
Adapters = dict[tuple[int, str], Weights]  # (layer, site) to the parts of the adapter there

# The library writes the first and the last of these; the others are what people make of them.
FILES = (
    "adapter.safetensors",
    "pytorch_adapter.safetensors",
    "model.safetensors",
    "pytorch_adapter.bin",
)
PLACES = {"attention_adapters": "attention", "output_adapters": "mlp"}
FIELDS = {"attention": "mh_adapter", "mlp": "output_adapter"}

# Transformers' names (its `get_activation`) to ours.
ACTIVATIONS = {
    **{name: name for name in ("swish", "silu", "relu", "tanh", "gelu")},
    **{name: "gelu_tanh" for name in ("gelu_new", "gelu_pytorch_tanh")},
}
# In checkpoints old enough to name no version the two are called otherwise (its ACTIVATION_RENAME).
OLD_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}

DOUBLE_SEQ_BN = {
    **{"mh_adapter": True, "output_adapter": True},
    **{"reduction_factor": 16, "non_linearity": "swish"},
}
NAMED = {"double_seq_bn": DOUBLE_SEQ_BN, "houlsby": DOUBLE_SEQ_BN}  # the second is its older name

# Fields that change what is computed, with the only value that ours computes; also their default.
FIXED = {
    "original_ln_after": True,
    **{name: False for name in ("original_ln_before", "ln_before", "ln_after", "is_parallel")},
    **{name: False for name in ("use_gating", "phm_layer", "cross_adapter")},
    **{name: None for name in ("inv_adapter", "invertible_adapter", "architecture")},
}
READ = (*DOUBLE_SEQ_BN, "scaling", "leave_out", "residual_before_ln")
# Fields that matter in training alone, or only beside a field that is refused.
IDLE = {
    *("init_weights", "init_weights_seed", "dtype", "dropout", "stochastic_depth"),
    *("adapter_residual_before_ln", "inv_adapter_reduction_factor"),
    *("phm_dim", "factorized_phm_W", "shared_W_phm", "shared_phm_rule", "factorized_phm_rule"),
    *("phm_c_init", "phm_init_range", "learn_phm", "hypercomplex_nonlinearity"),
    *("phm_rank", "phm_bias"),
}

# Everything before `layers` depends on the model's class and on the version of Transformers.
SITE = re.compile(
    r"(?P<prefix>(?:.*\.)?)layers\.(?P<layer>\d+)\.(?:.*\.)?"
    rf"(?P<place>{'|'.join(PLACES)})\.adapters\.(?P<name>[^.]+)\.(?P<part>.+)"
)
LEARNED = ("learned", "channel")  # one factor, or one for each of the hidden size


class AdapterHubError(QvlaError):
    """A checkpoint cannot be converted: one sentence that says why."""


def read_configuration(folder: Path) -> dict[str, Any]:
    """What the library wrote beside the weights; AdapterHubError when it was another program."""
    path = folder / CONFIG
    if not path.is_file():
        inside = sorted(folder.glob(f"*/{CONFIG}"))  # the library's Trainer saves one folder deeper
        hint = f"name the folder {inside[0].parent}" if inside else "name an adapter's folder"
        raise AdapterHubError(f"{folder} has no {CONFIG}; {hint}.")
    try:
        values = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterHubError(f"{path} is not readable JSON; fetch the adapter again.") from error
    if isinstance(values, dict) and "peft_type" in values:
        raise AdapterHubError(f"{folder} is a PEFT adapter already; use it as it is.")
    if not isinstance(values, dict) or "config" not in values:
        raise AdapterHubError(f"{path} is not a configuration that AdapterHub wrote: no 'config'.")
    return values


def fields_of(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The fields that decide, defaults filled in; refuses those that ours does not compute."""
    given = values["config"]
    if isinstance(given, str):
        given = NAMED.get(given)
    if not isinstance(given, dict):
        raise AdapterHubError(
            f"{folder} has the config {values['config']!r}, which is not known here: only "
            "bottleneck adapters such as double_seq_bn can be converted."
        )
    for name, value in given.items():
        if name in FIXED:
            fits = bool(value) == bool(FIXED[name])
        elif name == "residual_before_ln":  # "post_add" needs original_ln_before
            fits = isinstance(value, bool)
        else:
            fits = name in IDLE or name in READ
        if not fits:
            raise _refused(folder, name, value)
    fields: dict[str, Any] = {"scaling": 1.0, "leave_out": []} | given
    for name in DOUBLE_SEQ_BN:
        if name not in fields:
            raise AdapterHubError(f"{folder} has a config without {name}: fetch the adapter again.")
    _check_fields(fields, folder)
    if "version" not in values:
        act = fields["non_linearity"]
        fields["non_linearity"] = OLD_ACTIVATIONS.get(act, act)
    fields["non_linearity"] = fields["non_linearity"].lower()
    if fields["non_linearity"] not in ACTIVATIONS:
        raise _refused(folder, "non_linearity", given["non_linearity"])
    return fields


def _check_fields(fields: Mapping[str, Any], folder: Path) -> None:
    factor, scaling = fields["reduction_factor"], fields["scaling"]
    left_out = fields["leave_out"]
    checks = {
        # One factor for each layer would need one adapter a layer here; below 1 it widens.
        "reduction_factor": _is_number(factor) and factor >= 1 and float(factor).is_integer(),
        "scaling": _is_number(scaling) or scaling in LEARNED,
        "leave_out": isinstance(left_out, list) and all(type(one) is int for one in left_out),
        "non_linearity": isinstance(fields["non_linearity"], str),
        "mh_adapter": bool(chosen_sites(fields)),
    }
    for name, fits in checks.items():
        if not fits:
            raise _refused(folder, name, fields[name])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refused(folder: Path, name: str, value: object) -> AdapterHubError:
    return AdapterHubError(
        f"{folder} has {name} {value!r}, which the bottleneck adapters here do not compute, so it "
        "cannot be converted."
    )


def chosen_sites(fields: Mapping[str, Any]) -> list[str]:
    """Our names of the sublayers that have an adapter."""
    return [site for site, field in FIELDS.items() if fields[field]]


def read_weights(folder: Path) -> Weights:
    """The tensors by AdapterHub's names; pickles are read only as far as they are plain tensors."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise AdapterHubError(
            f"{folder} has no weights; there should be one of {', '.join(FILES)}."
        )
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:  # weights_only: a pickle may otherwise run any code when it is read
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any kind: unpickling a damaged file can raise anything
        log.info("Reading %s failed.", path, exc_info=True)
        raise AdapterHubError(
            f"{path} cannot be read as plain tensors; it is damaged, or a pickle of other things, "
            "which could run code and is refused."
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items()
    ):
        raise AdapterHubError(f"{path} holds other things than named tensors, so it is refused.")
    return dict(weights)


def adapters_of(weights: Weights, name: object, folder: Path) -> tuple[Adapters, Weights]:
    """The adapters by place, and the weights that are no part of one."""
    sites: Adapters = {}
    rest = {}
    for key, tensor in weights.items():
        match = SITE.fullmatch(key)
        if match is None:
            rest[key] = tensor
            continue
        if match["name"] != name:
            raise AdapterHubError(
                f"{folder} is the adapter {name!r} by its {CONFIG} and {match['name']!r} by its "
                "weights: fetch the adapter again."
            )
        if re.search(r"vision|encoder", match["prefix"]):
            raise AdapterHubError(
                f"{folder} has adapters outside the language decoder, such as {key}, which cannot "
                "be converted."
            )
        parts = sites.setdefault((int(match["layer"]), PLACES[match["place"]]), {})
        if match["part"] in parts:
            raise AdapterHubError(f"{folder} has two adapters at one place, such as {key}.")
        parts[match["part"]] = tensor
    if not sites:
        raise AdapterHubError(f"{folder} holds no weights of bottleneck adapters.")
    return sites, rest


def layers_of(sites: Adapters, fields: Mapping[str, Any], folder: Path) -> list[int]:
    """The adapted layers: all up to the last but `leave_out`, each with an adapter a site."""
    last = max(layer for layer, _ in sites)
    layers = [layer for layer in range(last + 1) if layer not in fields["leave_out"]]
    due = {(layer, site) for layer in layers for site in chosen_sites(fields)}
    for layer, site in sorted(due ^ sites.keys()):
        told = "lacks the" if (layer, site) in due else "has an unforeseen"
        raise AdapterHubError(
            f"{folder} {told} adapter for {FIELDS[site]} in layer {layer}, by its {CONFIG}: fetch "
            "the adapter again."
        )
    return layers


def check_shapes(sites: Adapters, fields: Mapping[str, Any], folder: Path) -> tuple[int, int]:
    """The hidden size and the bottleneck's width, which every adapter must have."""
    hidden = next(iter(sites.values())).get("adapter_up.bias", torch.empty(0)).numel()
    width = int(hidden // fields["reduction_factor"])
    due = {
        "adapter_down.0.weight": (width, hidden),
        "adapter_down.0.bias": (width,),
        "adapter_up.weight": (hidden, width),
        "adapter_up.bias": (hidden,),
    }
    if fields["scaling"] in LEARNED:
        due["scaling"] = (hidden if fields["scaling"] == "channel" else 1,)
    for (layer, site), parts in sites.items():
        where = f"{FIELDS[site]} in layer {layer}"
        for part in sorted(due.keys() ^ parts.keys()):
            told = "lacks" if part in due else "has an unknown"
            raise AdapterHubError(f"{folder} {told} {part} for {where}, so it is not converted.")
        for part, shape in due.items():
            if parts[part].shape != shape or not hidden or not width:
                raise AdapterHubError(
                    f"{folder} has {part} of {tuple(parts[part].shape)} for {where} where {shape} "
                    "is due by its reduction_factor: fetch the adapter again."
                )
    return hidden, width
