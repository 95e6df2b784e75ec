"""A model of any architecture with random weights, for what does not depend on their values.

Memory, time and throughput are the same for every value, so a benchmark of the full size needs no
download and no licence. What is written is an ordinary checkpoint with two ordinary adapters, in
the layout of the published ones, so that it is loaded and run by the same code. Its captions mean
nothing, and they rarely end before the longest length.
"""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model, get_peft_model_state_dict
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, ProcessorMixin

from qvla.captioning.prompts import CAPTION_PREFIX
from qvla.files import write_json, write_tensors
from qvla.methods.bottleneck import BottleneckConfig
from qvla.models.adapters import WEIGHTS as ADAPTER_WEIGHTS
from qvla.models.checkpoint import CONFIG, INDEX, WEIGHTS, BackboneError, read_config
from qvla.models.families import built_in, family_of
from qvla.models.families.family import Family
from qvla.models.families.word_tokens import UNKNOWN, cut_words, word_tokenizer

log = logging.getLogger(__name__)

STORED = torch.bfloat16  # two bytes a weight, as the published checkpoints in their bf16 branch
SHARD_BYTES = 2**29  # a shard is in memory while it is written; one tensor may be larger
SPARE_BYTES = 2**26  # for tokeniser, configurations and indices
# Small input embeddings are outweighed by what the layers add. Otherwise the output head, which is
# the same table, would only repeat the last token of the prompt.
EMBEDDING_SCALE = 0.01


class RandomWeightsError(BackboneError):
    """The checkpoint cannot be made; the message says why."""


def kept_checkpoint(model: str, folder: Path) -> dict[str, str]:
    """The settings of `write_checkpoint`, which writes only what does not lie in `folder` whole."""
    target = _target(model, folder)
    if (target / CONFIG).is_file():  # which is written last
        log.info("Using the random weights in %s.", target)
        return _settings(target)
    return write_checkpoint(model, folder)


def write_checkpoint(model: str, folder: Path, *, seed: int = 0) -> dict[str, str]:
    """Writes a checkpoint with adapters into a new folder within `folder`.

    The same model and seed give the same weights on the CPU, and others on CUDA, which draws them
    in a second rather than in half a minute at full size. Memory needed is that of the largest
    tensor or of half a GiB, whichever is more.

    Args:
        model: a built-in name, or a folder, of which only config.json is read.
        folder: where the checkpoint's own folder goes, which is named after the model.

    Returns the settings that name it: `model`, `adapter` and `nf4_adapter`.

    Raises:
        RandomWeightsError: an architecture that is not here, no room for it on the disk, or a
            vocabulary too small for the prompt.
        BackboneError: a folder without the configuration of a family that is known here.
    """
    config = _configuration(model)
    target = _target(model, folder)
    family = family_of(config)
    if not family.one_text:
        raise RandomWeightsError(
            f"No random weights are made of a {family.title}: measure with a checkpoint of it."
        )
    skeleton = family.skeleton(config)
    processor = _processor(family, config, model)
    adapters = {"adapter": seed + 1, "qvla": seed + 2}
    with torch.device("meta"):
        adapted = get_peft_model(copy.deepcopy(skeleton), BottleneckConfig())
    adapter_shapes = _adapter_shapes(adapted)
    _check_room(folder, skeleton, adapter_shapes, len(adapters))
    target.mkdir(parents=True, exist_ok=True)
    log.info("Writing random weights of the architecture of %s.", model)
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _write_weights(target, family, skeleton, torch.Generator(place).manual_seed(seed))
    if place.type == "cuda":
        torch.cuda.empty_cache()
    for name, own_seed in adapters.items():
        (target / name).mkdir(exist_ok=True)
        generator = torch.Generator().manual_seed(own_seed)
        _write_adapter(target / name, adapted, adapter_shapes, generator)
    processor.save_pretrained(target)
    GenerationConfig.from_model_config(config).save_pretrained(target)
    config.save_pretrained(target)
    return _settings(target)


def _target(model: str, folder: Path) -> Path:
    return Path(folder) / f"{Path(model).name} (random weights)"


def _settings(target: Path) -> dict[str, str]:
    return {
        "model": str(target),
        "adapter": str(target / "adapter"),
        "nf4_adapter": str(target / "qvla"),
    }


def _configuration(model: str) -> PreTrainedConfig:
    known = built_in()
    if Path(model).is_dir():
        config = read_config(Path(model), model)
    elif model in known:
        config = known[model]()
    else:
        raise RandomWeightsError(
            f"The architecture of {model} is not known without a download: name a folder with its "
            f"config.json, or one that is built in ({', '.join(known)})."
        )
    vars(config).pop("quantization_config", None)  # what is written is not quantised
    config.architectures = [family_of(config).model_class.__name__]
    config.dtype = STORED
    return config


def _check_room(
    folder: Path, skeleton: nn.Module, adapter: Mapping[str, torch.Size], adapters: int
) -> None:
    needed = SPARE_BYTES + sum(_stored_bytes(parameter) for parameter in skeleton.parameters())
    needed += adapters * sum(4 * shape.numel() for shape in adapter.values())
    place = next(path for path in (Path(folder), *Path(folder).resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise RandomWeightsError(
            f"The random weights need {needed / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB "
            "left: make room, or set TMPDIR to a folder on a larger disk."
        )


def _write_weights(
    folder: Path, family: Family, skeleton: nn.Module, generator: torch.Generator
) -> None:
    neutral = dict(_neutral_values(skeleton, family))
    shards = list(_shards(skeleton))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = WEIGHTS
        if len(shards) > 1:
            name = WEIGHTS.replace(".", f"-{number:05}-of-{len(shards):05}.", 1)
        tensors = {}
        for own, parameter in shard:
            value = neutral.get(own)
            if value is not None:
                tensor = torch.full(parameter.shape, value, dtype=STORED)
            else:
                tensor = torch.empty(parameter.shape, dtype=STORED, device=generator.device)
                deviation = _standard_deviation(parameter)
                if own.startswith(family.embedding):
                    deviation *= EMBEDDING_SCALE
                tensor.normal_(0, deviation, generator=generator)
            tensors[family.published_name(own)] = tensor.cpu()
        write_tensors(folder / name, tensors)
        weight_map |= dict.fromkeys(tensors, name)
        log.info("Wrote %s, %d of %d.", name, number, len(shards))
    if len(shards) > 1:
        total = sum(_stored_bytes(parameter) for parameter in skeleton.parameters())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / INDEX, index)


def _shards(skeleton: nn.Module) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Parameters in the order of the model, in groups of at most SHARD_BYTES."""
    shard: list[tuple[str, nn.Parameter]] = []
    held = 0
    for name, parameter in skeleton.named_parameters():  # leaves out what is tied to an earlier one
        size = _stored_bytes(parameter)
        if shard and held + size > SHARD_BYTES:
            yield shard
            shard, held = [], 0
        shard.append((name, parameter))
        held += size
    yield shard


def _neutral_values(skeleton: nn.Module, family: Family) -> Iterator[tuple[str, float]]:
    """Values of the one-dimensional parameters: norms that change nothing, and biases of zero."""
    for path, module in skeleton.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            if parameter.ndim == 1:
                scales = isinstance(module, nn.LayerNorm) and name.endswith(".weight")
                in_decoder = name.startswith(f"{family.decoder}.")
                yield name, family.neutral_norm if in_decoder else float(scales)


def _standard_deviation(parameter: nn.Parameter) -> float:
    """One over the root of the inputs: what comes out of a normalised input has a variance of one.

    Each residual layer then adds about as much, so that activations grow with the root of the
    layers' number (Glorot and Bengio, 2010). Gemma multiplies its input embeddings by the root of
    their size.
    """
    return parameter.shape[1:].numel() ** -0.5


def _write_adapter(
    folder: Path, adapted: Any, shapes: Mapping[str, torch.Size], generator: torch.Generator
) -> None:
    [config] = adapted.peft_config.values()
    tensors = {key: torch.empty(shape) for key, shape in shapes.items()}
    for tensor in tensors.values():
        tensor.normal_(0, config.init_std, generator=generator)
    write_tensors(folder / ADAPTER_WEIGHTS, tensors)
    config = copy.deepcopy(config)
    config.base_model_name_or_path = folder.parent.name
    config.inference_mode = True
    config.save_pretrained(str(folder))


def _adapter_shapes(adapted: nn.Module) -> dict[str, torch.Size]:
    tensors = get_peft_model_state_dict(
        adapted, state_dict=dict(adapted.named_parameters()), save_embedding_layers=False
    )
    return {name: tensor.shape for name, tensor in tensors.items()}


def _processor(family: Family, config: PreTrainedConfig, model: str) -> ProcessorMixin:
    """Tokeniser and image processor that fit: a word a token, made up but for the prompt's words.

    PaliGemma's captioning prompt takes as many tokens as with Gemma's tokeniser, which also has a
    token for each of its words.
    """
    vocabulary, special = _vocabulary(family, config, model)
    tokenizer = word_tokenizer(
        vocabulary,
        special,
        image_token=family.image_token,
        longest=config.text_config.max_position_embeddings,
        lower_case=False,
    )
    return family.make_processor(
        tokenizer, image_size=family.image_side(config), image_tokens=family.image_tokens(config)
    )


def _vocabulary(
    family: Family, config: PreTrainedConfig, model: str
) -> tuple[dict[str, int], dict[str, str]]:
    """A word for every number of the embedding table, and which of them are special.

    The tokens that the family's processor wants take the last numbers.
    """
    text, size = config.text_config, config.text_config.vocab_size
    numbers = {
        "pad_token": _first(text.pad_token_id, 0),
        "eos_token": _first(text.eos_token_id, 1),
        "bos_token": _first(text.bos_token_id, 2),
    }
    photo = family.image_token
    assert photo is not None  # as of every family that writes behind its prompt
    words = {config.image_token_id: photo}
    for name, number in numbers.items():
        words.setdefault(number, f"<{name.removesuffix('_token')}>")
    free = [number for number in range(size) if number not in words]
    said = [word for word in cut_words(family.prompt(CAPTION_PREFIX)) if word != family.image_token]
    needed, extra = list(dict.fromkeys([UNKNOWN, "\n", *said])), family.extra_tokens
    if len(free) < len(needed) + len(extra) or max(words) >= size:
        raise RandomWeightsError(
            f"{model} has {size} token embeddings, too few for {family.title}'s special tokens: it "
            "needs a configuration with a vocab_size that has room for them."
        )
    made_up = [f"word{number}" for number in free[len(needed) : len(free) - len(extra)]]
    words |= dict(zip(free, [*needed, *made_up, *extra], strict=True))
    special = {name: words[number] for name, number in numbers.items()} | {"unk_token": UNKNOWN}
    return {word: number for number, word in sorted(words.items())}, special


def _stored_bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * STORED.itemsize


def _first(number: int | list[int] | None, default: int) -> int:
    """A configuration may leave a token's number out, or give several."""
    if isinstance(number, (list, tuple)):
        number = number[0] if number else None
    return default if number is None else number
