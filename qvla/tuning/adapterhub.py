"""An AdapterHub checkpoint of bottleneck adapters, rewritten as a PEFT adapter of this project.

The report trained `double_seq_bn` of AdapterHub, plugged into PaliGemma's decoder by an interface
that names `self_attn`, `o_proj` and `mlp.down_proj` (its notebooks,
github.com/NisanYildiz/DI725-project). That is our bottleneck (`qvla.methods.bottleneck`), with
AdapterHub's `scaling` taken into the up projection. Its format is told in `adapterhub_format`.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from qvla.files import whole_folder, write_tensors
from qvla.methods.bottleneck import SITES, BottleneckConfig
from qvla.methods.bottleneck.sites import norms
from qvla.models.adapters import WEIGHTS
from qvla.models.families.paligemma import PALIGEMMA
from qvla.models.params import read_model_config
from qvla.tuning.adapterhub_format import (
    ACTIVATIONS,
    LEARNED,
    AdapterHubError,
    Weights,
    adapters_of,
    check_shapes,
    chosen_sites,
    fields_of,
    layers_of,
    read_configuration,
    read_weights,
)

__all__ = ["AdapterHubError", "Imported", "import_adapterhub"]

NORM = re.compile(r"(?:.*\.)?(?P<norm>layers\.\d+\.\w*layernorm|norm)\.weight")
PARTS = {
    "adapter_down.0.weight": "down.weight",
    "adapter_down.0.bias": "down.bias",
    "adapter_up.weight": "up.weight",
    "adapter_up.bias": "up.bias",
}
FAMILY = PALIGEMMA  # the one that such adapters were made for
OURS = f"base_model.model.{FAMILY.decoder}"


@dataclass(frozen=True)
class Imported:
    """What was converted; `base` is the model that the adapter says it was made for."""

    folder: str
    name: str
    base: str
    layers: list[int]
    sites: list[str]
    activation: str
    hidden_size: int
    width: int
    train_norms: bool
    parameters: int

    def card(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def import_adapterhub(folder: Path, out: Path, model: str | None = None) -> Imported:
    """Converts an AdapterHub adapter's folder to a PEFT folder, which is whole or not there.

    With `model`, a base by folder or id, the adapter is checked against its configuration; trained
    normalisation layers, which the library does not save by itself, can only be told with it.

    Raises:
        AdapterHubError: no such checkpoint, one that computes what ours does not, or an `out` that
            is there already or cannot be written.
        BackboneError: there is no such base.
    """
    if out.exists():
        raise AdapterHubError(f"{out} is there already; name another folder.")
    values = read_configuration(folder)
    fields = fields_of(values, folder)
    name = values.get("name")
    sites, rest = adapters_of(read_weights(folder), name, folder)
    layers = layers_of(sites, fields, folder)
    hidden, width = check_shapes(sites, fields, folder)

    everywhere = layers == list(range(len(layers))) and not fields["leave_out"]
    config = BottleneckConfig(
        reduction_factor=int(fields["reduction_factor"]),
        activation=ACTIVATIONS[fields["non_linearity"]],
        layers=None if everywhere else layers,
        sites=chosen_sites(fields),
        train_norms=bool(rest),
        base_model_name_or_path=_base(model or values.get("model_name")),
        inference_mode=True,
    )
    weights = {
        f"{OURS}.layers.{layer}.{SITES[site]}.bottleneck_adapter.{ours}": tensor
        for (layer, site), parts in sites.items()
        for ours, tensor in _scaled(parts, fields["scaling"]).items()
    }
    if model is not None:
        _check_model(model, layers, config.layers is None, hidden, folder)
    weights |= _norms(rest, config, model, hidden, folder)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise AdapterHubError(f"{folder} has weights that are no finite numbers: train it again.")
    _write(out, config, weights)
    return Imported(
        folder=str(out),
        name=str(name),
        base=config.base_model_name_or_path or "",
        layers=layers,
        sites=list(config.sites),
        activation=config.activation,
        hidden_size=hidden,
        width=width,
        train_norms=config.train_norms,
        parameters=sum(tensor.numel() for tensor in weights.values()),
    )


def _scaled(parts: Weights, scaling: float | str) -> Weights:
    """Our names and float32, in which adapters are kept, with the factor in the up projection."""
    ours = {PARTS[part]: parts[part].double() for part in PARTS}
    factor = parts["scaling"].double() if scaling in LEARNED else torch.tensor([float(scaling)])
    ours["up.weight"] = factor.double()[:, None] * ours["up.weight"]
    ours["up.bias"] = factor.double() * ours["up.bias"]
    return {name: tensor.float() for name, tensor in ours.items()}


def _check_model(
    model: str, layers: list[int], all_of_them: bool, hidden: int, folder: Path
) -> None:
    text: Any = read_model_config(model).text_config
    count, due = text.num_hidden_layers, text.hidden_size
    if hidden != due or layers[-1] >= count or (all_of_them and len(layers) != count):
        raise AdapterHubError(
            f"{folder} was made for {layers[-1] + 1} layers of {hidden} and {model} has {count} of "
            f"{due}: name the model that it was made for."
        )


def _norms(
    rest: Weights, config: BottleneckConfig, model: str | None, hidden: int, folder: Path
) -> Weights:
    """Trained normalisation layers, when they are just those that `train_norms` means here."""
    if not rest:
        return {}
    found = {match["norm"]: rest[key] for key in rest if (match := NORM.fullmatch(key))}
    strange = [key for key in rest if not NORM.fullmatch(key)]
    if strange or len(found) != len(rest):
        raise AdapterHubError(
            f"{folder} holds weights of more than adapters, such as {sorted(strange or rest)[0]}, "
            "so it is not converted."
        )
    if model is None:
        raise AdapterHubError(
            f"{folder} holds normalisation layers too; name the base with --model to convert them."
        )
    skeleton = FAMILY.skeleton(read_model_config(model))
    due = {name.removeprefix(f"{FAMILY.decoder}.") for name in norms(skeleton, config)}
    if due != found.keys() or any(norm.shape != (hidden,) for norm in found.values()):
        odd = sorted(due ^ found.keys()) or sorted(found)
        raise AdapterHubError(
            f"{folder} does not hold just the normalisation layer after each adapter, which is "
            f"what train_norms means here (see {odd[0]}), so it is not converted."
        )
    return {f"{OURS}.{name}.bottleneck_norm.weight": norm.float() for name, norm in found.items()}


def _base(name: object) -> str | None:
    """A hub id, or the name of a folder: a path would say nothing on another machine."""
    if not isinstance(name, str) or not name:
        return None
    local = Path(name).is_dir() or len(Path(name).parts) > 2
    return Path(name).resolve().name if local else name


def _write(out: Path, config: BottleneckConfig, weights: Weights) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(out) as folder:
            config.save_pretrained(str(folder))
            write_tensors(folder / WEIGHTS, weights)
    except OSError as error:
        raise AdapterHubError(
            f"{out} cannot be written ({error.strerror}); name another."
        ) from error
