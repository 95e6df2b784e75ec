"""An adapter's folder, read and checked before anything of it touches a model.

Only what can be told from the files alone is refused here; whether an adapter fits a model is told
by `adapters`, which tries it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import torch
from peft import PeftConfig
from peft.utils import PeftType
from safetensors import SafetensorError
from safetensors.torch import load_file

from qvla.errors import QvlaError
from qvla.faults import first_line, is_out_of_memory
from qvla.hub import local_folder
from qvla.methods.registry import make_known
from qvla.models import limits

log = logging.getLogger(__name__)
make_known()

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
QUESTIONS = "vqa"  # the folder within an adapter's of another, which answers questions in its stead
FILES = (CONFIG, WEIGHTS, f"{QUESTIONS}/{CONFIG}", f"{QUESTIONS}/{WEIGHTS}")
# Ways to start a LoRA that PEFT repeats whenever one is loaded, and that take something off the
# base's own weights (arXiv 2404.02948, 2406.01775, 2406.05223, 2310.08659, 2407.05000).
ALTERING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")

Weights = dict[str, torch.Tensor]


class AdapterError(QvlaError):
    """An adapter cannot be attached: one sentence that says why and what to do."""


@dataclass(frozen=True)
class AdapterFiles:
    """What an adapter's folder holds. `folder` is what the user called it, for sentences."""

    folder: str
    config: PeftConfig
    weights: Weights
    values: dict[str, Any]  # of the configuration, as they stand in the file


def read_adapter(folder: str | Path) -> AdapterFiles:
    """Reads an adapter by folder or hub id.

    Raises AdapterError for what is no whole adapter, holds pickles, or would change more than it
    may when it is loaded.
    """
    source = local_folder(folder, FILES, AdapterError)
    values, config = _read_config(source, folder)
    weights = _read_weights(source, folder)
    shapes = [tensor.shape for tensor in weights.values()]
    limits.check_ranks(values, shapes, AdapterError, str(folder))
    return AdapterFiles(str(folder), config, weights, values)


def questions_within(folder: str | Path) -> Path | None:
    """Where the adapter lies that answers questions in place of this one, by folder or hub id; None
    without one. Raises AdapterError where there is no such folder at all.
    """
    found = local_folder(folder, FILES, AdapterError) / QUESTIONS
    return found if (found / CONFIG).is_file() else None


def told(error: Exception, folder: str) -> AdapterError:
    """Whatever PEFT, PyTorch or we have against an adapter, in a sentence."""
    if isinstance(error, QvlaError):
        return AdapterError(f"{folder} cannot be attached: {error}")
    log.info("Attaching %s failed.", folder, exc_info=True)
    if is_out_of_memory(error):
        return AdapterError(f"There is not enough memory for {folder}: choose a smaller adapter.")
    return AdapterError(
        f"{folder} does not fit this model ({first_line(error)}): choose an adapter made for it."
    )


def _read_config(source: Path, folder: str | Path) -> tuple[dict[str, Any], PeftConfig]:
    """The configuration as it stands in the file, and as PEFT understands it."""
    if not (source / CONFIG).is_file():
        raise AdapterError(
            f"{folder} is not an adapter, it has no {CONFIG}: choose another folder."
        )
    values = limits.read_json(source / CONFIG, AdapterError, folder)
    kind = values.get("peft_type")
    limits.check_numbers(values, AdapterError, str(folder))
    if not isinstance(kind, str) or kind not in PeftType.__members__:
        raise AdapterError(f"{folder} is an adapter of an unknown method, {shortened(kind)}.")
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
    _refuse(config, folder)
    config.inference_mode = True
    return values, config


def _refuse(config: PeftConfig, folder: str | Path) -> None:
    """What cannot stand beside a base that answers too, or that nothing here carries yet."""
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise AdapterError(
            f"{folder} is an adapter of the method {method_name(config)}, which changes the prompt "
            "and no layer; that is not supported here: use one that changes layers, such as LoRA."
        )
    start = getattr(config, "init_lora_weights", True)
    if isinstance(start, str) and start.startswith(ALTERING_STARTS):
        raise AdapterError(
            f"{folder} was started by {start}, which alters the base's own weights whenever it is "
            "loaded; that is not supported here: save it as plain LoRA with PEFT's "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)."
        )


def _read_weights(source: Path, folder: str | Path) -> Weights:
    if not (source / WEIGHTS).is_file():
        also = " only weights in a pickle file, which could run code when read, and"
        pickled = also if (source / "adapter_model.bin").is_file() else ""
        raise AdapterError(f"{folder} has{pickled} no {WEIGHTS}: save the adapter as safetensors.")
    try:
        limits.check_tensors(source / WEIGHTS, AdapterError, folder)
        weights = load_file(source / WEIGHTS)
    except (SafetensorError, OSError, MemoryError) as error:
        if is_out_of_memory(error):
            raise told(error, str(folder)) from error
        raise AdapterError(
            f"{folder} has a damaged or truncated {WEIGHTS}: save or fetch it again."
        ) from error
    if not all(bool(torch.isfinite(t).all()) for t in weights.values() if t.is_floating_point()):
        raise AdapterError(f"{folder} has weights that are no finite numbers: train it again.")
    return weights


def method_name(config: PeftConfig) -> str:
    """The name of a configuration's method, in words."""
    kind = config.peft_type
    return str(getattr(kind, "value", kind)).lower().replace("_", " ")
