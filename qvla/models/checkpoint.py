"""The files of a checkpoint, checked before any weight is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedConfig, ProcessorMixin

from qvla.faults import first_line, is_out_of_memory
from qvla.models import limits
from qvla.models.errors import BackboneError
from qvla.models.families import family_named, family_of

MODEL_FILES = ("*.json", "*.safetensors", "*.model")
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def read_config(folder: Path, name: str | Path) -> PreTrainedConfig:
    """The configuration in a checkpoint's folder, checked to be of a family that is known here."""
    has_config = (folder / CONFIG).is_file()
    if (folder / "adapter_config.json").is_file():
        if has_config:  # Transformers would put the adapter into the base without a word
            raise BackboneError(
                f"{name} holds a model and an adapter in one folder: move the adapter to a folder "
                "of its own."
            )
        raise BackboneError(
            f"{name} is an adapter, not a model: name the model it was made for, and this one as "
            "its adapter."
        )
    if not has_config:
        raise BackboneError(f"{name} has no {CONFIG}: name the folder of a whole checkpoint.")
    limits.refuse_code(folder, BackboneError, name)
    values = limits.read_json(folder / CONFIG, BackboneError, name)
    limits.check_numbers(values, BackboneError, f"The {CONFIG} of {name}")
    family = family_named(values.get("model_type"), of=str(name))
    try:
        return family.config_class.from_dict(values)
    except Exception as error:  # any kind: the file's values go into constructors unchecked
        raise BackboneError(
            f"{name} has a {CONFIG} that does not describe a {family.title} ({first_line(error)}): "
            "fetch or save the checkpoint again."
        ) from error


def check_weight_files(folder: Path, name: str | Path) -> None:
    """Refuses missing and truncated weight files, and pickles."""
    if (folder / WEIGHTS).is_file():
        files = [WEIGHTS]
    elif (folder / INDEX).is_file():
        weight_map = limits.read_json(folder / INDEX, BackboneError, name).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BackboneError(f"{name} has a damaged {INDEX}: fetch the checkpoint again.")
        files = sorted(set(map(str, weight_map.values())))
    elif any(folder.glob("*.bin")):
        raise BackboneError(
            f"{name} has its weights only as pickle files (.bin), which could run code when read: "
            "use a checkpoint with safetensors."
        )
    else:
        raise BackboneError(f"{name} has no {WEIGHTS}: name the folder of a whole checkpoint.")
    for file in files:
        if not (folder / file).is_file():
            raise BackboneError(f"{name} lacks its weight file {file}: fetch it again.")
        try:
            limits.check_tensors(folder / file, BackboneError, name)  # header and length too
        except (SafetensorError, OSError) as error:
            if is_out_of_memory(error):
                raise
            raise BackboneError(
                f"{name} has a damaged or truncated weight file {file}: fetch it again."
            ) from error


def read_processor(folder: Path, name: str | Path, config: PreTrainedConfig) -> ProcessorMixin:
    """Tokeniser and image processor, checked to fit the configuration."""
    family = family_of(config)
    try:
        processor: Any = family.processor_class.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        fits = family.fits(processor, config)
    except Exception as error:  # any kind: a damaged file fails wherever it is first used
        if is_out_of_memory(error):
            raise
        raise BackboneError(
            f"{name} has no usable processor ({first_line(error)}): its tokeniser and image "
            "processor files must lie beside the weights, so fetch them again."
        ) from error
    if not fits:
        raise BackboneError(
            f"{name} has a processor of another model: the weights expect "
            f"{family.expected(config)}; fetch the files again."
        )
    return processor
