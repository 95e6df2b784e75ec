"""An adapter taken into its base's weights: W + ΔW, in float32, by PEFT's `merge_and_unload`.

What comes of it is a checkpoint like any other. Only a change of weights can be merged; the
registry's entries tell that of the methods known here, and PEFT is asked for all others.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors import safe_open
from torch import nn
from transformers.core_model_loading import WeightConverter

from qvla.errors import QvlaError
from qvla.faults import first_line, is_out_of_memory
from qvla.hub import local_folder
from qvla.methods.registry import method_of
from qvla.models.adapter_files import AdapterFiles, method_name, read_adapter
from qvla.models.adapters import Adapter
from qvla.models.backbone import Backbone, Precision, load_backbone
from qvla.models.checkpoint import MODEL_FILES, read_config
from qvla.models.errors import BackboneError
from qvla.models.families import family_of

log = logging.getLogger(__name__)

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}


class MergeError(QvlaError):
    """An adapter cannot be merged: one sentence that says why and what to do."""


def check_method(adapter: str | Path) -> AdapterFiles:
    """The adapter's files; raises MergeError for a method known to change more than weights, and
    AdapterError for what is no whole adapter.
    """
    files = read_adapter(adapter)
    entry = method_of(files.values)
    if entry is not None and not entry.merges:
        raise MergeError(
            f"{adapter} cannot be merged: what the method {entry.title} adds is no change of the "
            "base's weights. Keep it as an adapter beside its base."
        )
    return files


def method_in(files: AdapterFiles) -> str:
    """The name of an adapter's method: the registry's, or PEFT's where it has none."""
    entry = method_of(files.values)
    return method_name(files.config) if entry is None else entry.name


def is_stored_quantised(model: str | Path) -> bool:
    """Whether a checkpoint's files hold quantised weights; raises BackboneError."""
    folder = local_folder(model, MODEL_FILES, BackboneError)
    return getattr(read_config(folder, model), "quantization_config", None) is not None


def stored_precision(model: str | Path) -> Precision:
    """How a float checkpoint's files hold it: bf16 if they hold every weight so, otherwise fp32,
    which loses nothing.
    """
    kinds = set()
    for path in local_folder(model, MODEL_FILES, BackboneError).glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            weights = (key for key in file.keys() if key.endswith((".weight", ".bias")))  # noqa: SIM118
            kinds |= {file.get_slice(key).get_dtype() for key in weights}
    return Precision.BF16 if kinds - {"U8"} == {"BF16"} else Precision.FP32


def load_base(model: str | Path, *, device: str, dequantise: bool) -> Backbone:
    """The base in float32, with `dequantise` from the weights that NF4 makes of it, but for the
    embedding table and head, which NF4 leaves alone. Raises BackboneError.
    """
    if not dequantise:
        return load_backbone(model, Precision.FP32, device=device)
    backbone = load_backbone(
        model, Precision.NF4, device=device, for_training=True, embeddings="bf16"
    )
    whole: Any = backbone.model.dequantize()
    # What Transformers leaves of NF4: PEFT goes by the mark, and saving by the conversions.
    whole.is_loaded_in_4bit = False
    whole._weight_conversions = [
        one for one in whole._weight_conversions or () if not isinstance(one, WeightConverter)
    ]
    whole.float().requires_grad_(False).eval()
    return Backbone(whole, backbone.processor, backbone.name, Precision.FP32, backbone.device)


@torch.no_grad()
def merge(adapter: Adapter) -> Any:
    """The bare model with the adapter in its weights, which its backbone shares.

    An output head that is tied to the embedding table gets a table of its own where the adapter
    changes only one of them. Raises MergeError for what PEFT cannot merge.
    """
    bare: Any = adapter.model.get_base_model()
    tied = bare.config.tie_word_embeddings
    if tied:
        _untie(bare)
    fault = None
    try:
        merged: Any = adapter.model.merge_and_unload(safe_merge=True)
    except Exception as error:  # any kind: each tuner has its own for what it cannot merge
        log.info("Merging %s failed.", adapter.files.folder, exc_info=True)
        fault = MergeError(_explain(error, adapter.files))
    if fault is not None:
        raise fault  # not chained: the traceback would keep the weights in memory
    if tied:
        _tie_again(merged)
    return merged


def write(backbone: Backbone, model: Any, precision: Precision, folder: Path) -> None:
    """The merged model as a checkpoint of safetensors, with its processor. Raises OSError."""
    model.to(DTYPES[precision])
    for name in model.config.sub_configs:
        getattr(model.config, name).dtype = DTYPES[precision]
    model.save_pretrained(str(folder))
    backbone.processor.save_pretrained(str(folder))
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors shuts others out


def _untie(model: Any) -> None:
    """Gives a head that shares the embedding's weight, wrapped by PEFT or not, a copy of it.

    PEFT would else merge what is meant for the one into both.
    """
    family = family_of(model.config)
    embedding, head = (model.get_submodule(path) for path in (family.embedding, family.head))
    wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    if not isinstance(embedding, wrappers) and not isinstance(head, wrappers):
        return
    shared = {id(parameter) for parameter in embedding.parameters()}
    for module in head.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in shared:
                module._parameters[name] = nn.Parameter(parameter.clone(), requires_grad=False)


def _tie_again(model: Any) -> None:
    """Ties head and embedding where they are the same still, or says that they are not."""
    family = family_of(model.config)
    embedding, head = (model.get_submodule(path) for path in (family.embedding, family.head))
    same = torch.equal(head.weight, embedding.weight)
    if same:
        head.weight = embedding.weight
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = same


def _explain(error: Exception, files: AdapterFiles) -> str:
    if is_out_of_memory(error):
        return f"There is not enough memory to merge {files.folder}: close other programs."
    return (
        f"{files.folder} cannot be merged: PEFT does not do it for this adapter of the method "
        f"{method_in(files)} ({first_line(error)}). Keep it as an adapter beside its base."
    )
