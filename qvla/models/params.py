"""The `params` report: a model's parameters and bytes, told from its configuration alone.

The model and its adapters are built on the meta device, which has shapes but no memory, so the
report takes a second for any size and needs neither weights nor network for what is built in.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert

from qvla.hub import local_folder
from qvla.methods.recipe import fields_of
from qvla.methods.registry import adapter_method
from qvla.models import int8, int8_embedding, nf4
from qvla.models.architectures import PALIGEMMA_3B
from qvla.models.checkpoint import BackboneError, read_config
from qvla.models.families import built_in, family_of
from qvla.models.footprint import census


def report(
    model: str | Path = PALIGEMMA_3B,
    *,
    method: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """What a model consists of, with one adapter and in each precision.

    Args:
        model: a built-in name, a checkpoint's folder (its weights may be missing), or a hub id.
        method: of the adapter, a name in `qvla.methods.registry`; None is the usual one of the
            model's family, with its usual settings.
        fields: what a recipe may say of that method, such as `reduction_factor`; what is left out
            is at the recipe's default.

    Returns a JSON-ready dict: `method`, `full_params`, `parts`, `adapter_params` (of bottlenecks
    without norms, as the report's table I counts), `adapter_norm_params`, `adapter_sites`,
    `adapter_percent` (of full_params), `nf4_packed_elements`, `nf4_elements` (stored elements by
    dtype, with the float16 and the float32 one-dimensional parameters of the report's own count),
    and `weight_bytes` by precision: `int8` as LLM.int8, `nf4` with the embedding table in bfloat16,
    `nf4_float32_norms` as the report's script held it, `nf4_int8_embeddings` with the table in 8
    bits, as `load_backbone` holds it unless told otherwise, and `nf4_int8_float32` as it holds that
    where NF4 computes in float32.

    Raises:
        BackboneError: an unknown model or one of a family that is not known here.
        TrainingError: a method that does not exist, or a field that it does not have.
        BottleneckError: an adapter that this model cannot carry.
    """
    config = read_model_config(model)
    family = family_of(config)
    entry = adapter_method(family.usual_method if method is None else method)
    if method is None:
        fields = {**family.usual_settings, **fields}
    base = family.skeleton(config)
    counts = census(base)
    quantised = nf4_sizes(config)
    adapter = entry.config(fields_of(entry, **fields), family.places(config))
    assert adapter is not None  # `adapter_method` gives none that makes no adapter
    adapters = entry.count(entry.outline(base, adapter))
    total = counts.total_parameters
    return {
        "model": str(model),
        "method": entry.name,
        "full_params": total,
        "parts": dict(counts.parameters),
        "adapter_params": adapters.adapters,
        "adapter_norm_params": adapters.norms,
        "adapter_sites": adapters.sites,
        "adapter_percent": round(100 * adapters.adapters / total, 3),
        "nf4_packed_elements": quantised["elements"]["uint8"],
        "nf4_elements": quantised["elements"],
        "nf4_quantised_layers": quantised["layers"],
        "nf4_quantisation_bytes": quantised["state_bytes"],
        "weight_bytes": {"fp32": 4 * total, "bf16": 2 * total, **quantised["bytes"]},
        "adapter_bytes": {"fp32": 4 * adapters.total, "bf16": 2 * adapters.total},
    }


def read_model_config(model: str | Path) -> PreTrainedConfig:
    """The configuration of a built-in name, a folder or a hub id; raises BackboneError."""
    known = built_in()
    if not Path(model).is_dir() and str(model) in known:
        return known[str(model)]()
    try:
        return read_config(local_folder(model, ["config.json"], BackboneError), model)
    except BackboneError as error:
        raise BackboneError(f"{error} Built in: {', '.join(known)}.") from error


def nf4_sizes(config: PreTrainedConfig) -> dict[str, Any]:
    """What quantising would store, by putting bitsandbytes' layers in as Transformers does.

    The layers that it leaves alone are named by Transformers' own rule: the embeddings, the output
    head tied to them and the last module. A model's sizes are found once in a process, as a page
    of plans asks for the same again with every change.
    """
    key = config.to_json_string(use_diff=False)
    if key not in _SIZES:
        if len(_SIZES) == MOST_KEPT:
            _SIZES.clear()
        _SIZES[key] = _nf4_sizes(config)
    return copy.deepcopy(_SIZES[key])


MOST_KEPT = 64  # configurations, which visitors of a page may choose
_SIZES: dict[str, dict[str, Any]] = {}  # by configuration


def _nf4_sizes(config: PreTrainedConfig) -> dict[str, Any]:
    model: Any = family_of(config).skeleton(config)
    total = sum(p.numel() for p in model.parameters())
    one_dimensional = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    replace_with_bnb_linear(model, get_keys_to_not_convert(model), nf4.quantisation_config())
    shapes = [(layer.out_features, layer.in_features) for _, layer in nf4.layers(model)]
    sizes = [rows * columns for rows, columns in shapes]
    int8_state = sum(int8.state_bytes(rows) for rows, _ in shapes)
    packed = sum(-(-size // 2) for size in sizes)
    rest = total - sum(sizes)
    state_bytes = sum(map(nf4.state_bytes, sizes))
    shapes_of_tables: list[tuple[int, int]] = []
    if family_of(config).holds_int8_table:
        held = (model.get_output_embeddings(), model.get_input_embeddings())
        tables = {id(module.weight): module.weight for module in held}
        shapes_of_tables = [tuple(table.shape) for table in tables.values()]

    def with_int8_table(number: int) -> int:
        """Bytes of NF4 with what is not quantised in so many bytes a number."""
        short = sum(int8_embedding.table_bytes(*shape, number) for shape in shapes_of_tables)
        others = rest - sum(rows * width for rows, width in shapes_of_tables)
        return packed + state_bytes + number * others + short

    return {
        "layers": len(sizes),
        "elements": {
            "uint8": packed,
            "float16": rest - one_dimensional,
            "float32": one_dimensional,
        },
        "state_bytes": state_bytes,
        "bytes": {
            "int8": sum(sizes) + int8_state + 2 * rest,
            "nf4": packed + state_bytes + 2 * rest,
            "nf4_float32_norms": packed + state_bytes + 2 * (rest + one_dimensional),
            "nf4_int8_embeddings": with_int8_table(2),
            "nf4_int8_float32": with_int8_table(4),
        },
    }
