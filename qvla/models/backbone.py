"""A vision-language model by hub id or folder, in float32, bfloat16, float16, INT8 or NF4.

Transformers is forgiving where this project must not be: it fills missing weights with random ones
and reads pickles. Everything that can be wrong with a checkpoint is told here in one sentence.
"""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from qvla.faults import first_line, is_out_of_memory
from qvla.hub import local_folder
from qvla.models import int8, int8_embedding, nf4
from qvla.models.checkpoint import (
    CONFIG,
    MODEL_FILES,
    BackboneError,
    check_weight_files,
    read_config,
    read_processor,
)
from qvla.models.families import family_of
from qvla.models.families.family import Family
from qvla.records.measure import give_back_memory
from qvla.settings import EMBEDDINGS, load_settings, on_zerogpu

log = logging.getLogger(__name__)


class Precision(StrEnum):
    """How the base weights are held; what INT8 and NF4 compute in, `computing_in` says.

    With NF4 the embedding table, which is the output head too, is held apart: see `load_backbone`.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    NF4 = "nf4"

    @property
    def is_quantised(self) -> bool:
        """Whether the layers are of bitsandbytes, which cannot be trained themselves."""
        return self in (Precision.INT8, Precision.NF4)


FLOATS = {
    Precision.FP32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


@dataclass
class Backbone:
    """A loaded model with its processor; `model` is a PeftModel once an adapter is attached."""

    model: PreTrainedModel | PeftModel
    processor: ProcessorMixin
    name: str
    precision: Precision
    device: torch.device

    @property
    def family(self) -> Family:
        """What is the model's own among the families: `qvla.models.families`."""
        return family_of(self.model.config)

    @property
    def computes_in(self) -> str:
        """The type of what one layer hands to the next: float32, bfloat16 or float16."""
        return str(self.model.dtype).removeprefix("torch.")


def load_backbone(
    name: str | Path,
    precision: Precision | str,
    *,
    device: str = "auto",
    for_training: bool = False,
    embeddings: str | None = None,
    compute: torch.dtype | None = None,
) -> Backbone:
    """Loads a checkpoint of any family that is known here, ready for evaluation.

    Args:
        name: a folder, or a hub id, which is downloaded unless the cache has it.
        precision: of the base weights; see `Precision`.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        for_training: keep NF4 layers in the form through which gradients are right (`nf4`).
        embeddings: how NF4 holds the embedding table, "int8" or "bf16" (`int8_embedding`), which
            quantisation to NF4 leaves alone; None is what the setting `nf4_embeddings` says. Other
            precisions hold it as all their weights, and a family may only know bfloat16.
        compute: what a quantised model computes in; None is what `computing_in` says. NF4 with an
            int8 table holds the same weights whatever it is; the rest is then float32 too.

    Raises:
        BackboneError: for everything that a user can mend, from a missing licence to memory.
        SettingsError: the setting was asked for and an environment variable has a bad value.
    """
    if precision not in list(Precision):
        raise BackboneError(
            f"There is no precision {precision!r}: use {', '.join(p.value for p in Precision)}."
        )
    precision = Precision(precision)
    in_int8 = precision is Precision.NF4 and _embeddings(embeddings) == "int8"
    target = _device(device)
    fault = None
    try:
        folder = local_folder(name, MODEL_FILES, BackboneError)
        config = read_config(folder, name)
        _check_quantisation(config, precision, name)
        check_weight_files(folder, name)
        processor = read_processor(folder, name, config)
        in_int8 = in_int8 and family_of(config).holds_int8_table
        if compute is None or not precision.is_quantised:
            compute = computing_in(precision, target, for_training=for_training, int8_table=in_int8)
        # Loaded in bfloat16 all the same, the table does not take four bytes a number on its way.
        widened = in_int8 and compute is torch.float32
        held = torch.bfloat16 if widened else compute
        model = _model(folder, name, config, precision, target, held)
        if in_int8:
            int8_embedding.quantise_embeddings(model)
        if widened:
            nf4.compute_in_float32(model)
        if for_training:
            nf4.prepare_for_training(model)
        else:
            nf4.prepare_for_inference(model)
        if precision.is_quantised and target.type == "cpu":
            give_back_memory()  # quantising leaves the weights' former bytes with the allocator
    except BackboneError:
        raise
    except Exception as error:
        # Not chained: the traceback would keep what was already loaded in memory.
        log.info("Loading %s failed.", name, exc_info=True)
        fault = BackboneError(_explain(error, name, precision, target))
    if fault is not None:
        gc.collect()
        if target.type == "cuda":
            torch.cuda.empty_cache()
        raise fault
    return Backbone(model, processor, str(name), precision, target)


def computing_in(
    precision: Precision,
    device: torch.device,
    *,
    for_training: bool = False,
    int8_table: bool = True,
) -> torch.dtype:
    """What a model in that precision computes in there: of a quantised one bfloat16, and float16
    for answers on CUDA cards that lack it.

    On processors that lack it NF4 computes in float32: a prompt then takes a quarter of the time
    and a token as long or less. Without an `int8_table` it does not, since the table would take
    four bytes a number.
    """
    if not precision.is_quantised:
        return FLOATS[precision]
    if lacks_bf16(device) and not for_training:
        return torch.float16
    slow = device.type == "cpu" and precision is Precision.NF4 and not nf4.packs()
    return torch.float32 if slow and int8_table else torch.bfloat16


def lacks_bf16(device: torch.device | str) -> bool:
    """Whether that is a CUDA card before Ampere (compute capability 8.0), such as the T4, on which
    PyTorch only imitates bfloat16, slowly.
    """
    return (
        torch.device(device).type == "cuda"
        and torch.cuda.is_available()
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    )


def _model(
    folder: Path,
    name: str | Path,
    config: PreTrainedConfig,
    precision: Precision,
    device: torch.device,
    compute: torch.dtype,
) -> PreTrainedModel:
    family = family_of(config)
    options: dict[str, Any] = {}
    if precision.is_quantised and _stored_quantisation(config) is None:
        options["quantization_config"] = (
            nf4.quantisation_config(compute)
            if precision is Precision.NF4
            else int8.quantisation_config()
        )
    # ZeroGPU's stand-in for CUDA is in the main thread alone, and Transformers loads in others.
    moved = on_zerogpu() and device.type == "cuda"
    loaded: Any = family.model_class.from_pretrained(  # a pair, with `output_loading_info`
        folder,
        config=config,
        dtype=compute,
        device_map={"": "cpu" if moved else str(device)},
        attn_implementation=family.attention(config),
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, with a sentence
        **options,
    )
    model, found = loaded
    _check_weights(found, model, name, quantised=precision.is_quantised)
    if moved:
        model.to(device)
    model.requires_grad_(False)
    model.eval()
    int8.prepare(model)
    return model


def _embeddings(embeddings: str | None) -> str:
    if embeddings is None:
        return load_settings().nf4_embeddings
    if embeddings not in EMBEDDINGS:
        raise BackboneError(
            f"NF4 cannot hold embeddings in {embeddings!r}: use {' or '.join(EMBEDDINGS)}."
        )
    return embeddings


def _check_weights(found: dict[str, Any], model: Any, name: str | Path, *, quantised: bool) -> None:
    for kind, keys in (("lacks", "missing_keys"), ("has unknown", "unexpected_keys")):
        if found[keys]:
            raise BackboneError(
                f"{name} {kind} weights, {len(found[keys])} in all, such as "
                f"{sorted(found[keys])[0]}: fetch or save the checkpoint again."
            )
    wrong = {key: (tuple(shape), tuple(due)) for key, shape, due in found["mismatched_keys"]}
    if quantised:  # of which Transformers compares no shapes
        skeleton = family_of(model.config).skeleton(model.config)
        due_shapes = {key: tuple(p.shape) for key, p in skeleton.named_parameters() if p.ndim == 1}
        for key, parameter in model.named_parameters():
            if due_shapes.get(key, tuple(parameter.shape)) != tuple(parameter.shape):
                wrong[key] = (tuple(parameter.shape), due_shapes[key])
    for key, eight in int8.layers(model):
        if eight.weight.shape != (eight.out_features, eight.in_features):
            shape = tuple(eight.weight.shape)
            wrong[f"{key}.weight"] = (shape, (eight.out_features, eight.in_features))
    for key, layer in nf4.layers(model):
        shape = tuple(nf4.weight_of(layer).quant_state.shape)
        if shape != (layer.out_features, layer.in_features):
            wrong[f"{key}.weight"] = (shape, (layer.out_features, layer.in_features))
    if wrong:
        key, (shape, due) = sorted(wrong.items())[0]
        raise BackboneError(
            f"{name} does not fit its own {CONFIG}: {key} is {shape} where {due} is due; fetch or "
            "save the checkpoint again."
        )


def _stored_quantisation(config: PreTrainedConfig) -> dict[str, Any] | None:
    stored = getattr(config, "quantization_config", None)
    return stored if stored is None or isinstance(stored, dict) else stored.to_dict()


def _check_quantisation(config: PreTrainedConfig, precision: Precision, name: str | Path) -> None:
    stored = _stored_quantisation(config)
    if stored is None:
        return
    is_nf4 = stored.get("load_in_4bit") and stored.get("bnb_4bit_quant_type") == "nf4"
    if not is_nf4 or precision is not Precision.NF4:
        held = "NF4" if is_nf4 else stored.get("quant_method", "an unknown format")
        raise BackboneError(
            f"{name} holds weights quantised to {held} and cannot be loaded in {precision.value}: "
            "use the unquantised checkpoint."
        )


def _device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise BackboneError(f"There is no device {device!r}: use auto, cpu or cuda.") from error
    if target.type not in ("cpu", "cuda"):
        raise BackboneError(f"Device {device!r} is not supported: use auto, cpu or cuda.")
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise BackboneError(f"This machine has no usable {device}: use auto or cpu.")
    if target.type == "cuda" and target.index is None:
        target = torch.device("cuda", torch.cuda.current_device())
    return target


def _explain(error: Exception, name: str | Path, precision: Precision, device: torch.device) -> str:
    if is_out_of_memory(error):
        return (
            f"There is not enough memory on {device} to load {name} in {precision.value}: close "
            "other programs, or use a lower precision or a smaller model."
        )
    return (
        f"{name} could not be loaded ({first_line(error)}): fetch or save the checkpoint again, "
        "and see the log for details."
    )
