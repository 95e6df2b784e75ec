"""How much memory a variant takes for captioning or training, told from its configuration alone.

Weights are counted on the meta device (`qvla.models.params`), activations derived from the
architecture (`qvla.planning.activations`), so the answer takes a second and needs neither weights
nor a GPU. How good it is, the memory suite measures: `python -m qvla bench --suite memory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedConfig

from qvla.captioning.contenders import VARIANTS
from qvla.errors import QvlaError
from qvla.methods.method import Trained
from qvla.methods.recipe import Recipe, fields_of
from qvla.methods.registry import Kind, adapter_method
from qvla.models import nf4
from qvla.models.architectures import PALIGEMMA_3B
from qvla.models.backbone import Precision, computing_in
from qvla.models.families import family_of
from qvla.models.families.family import Family
from qvla.models.int8_embedding import CHUNK_BYTES
from qvla.models.params import read_model_config
from qvla.planning.activations import Decoder, Step
from qvla.planning.gpus import fitting
from qvla.planning.tower import Tower
from qvla.planning.trainable import Skeleton, optimiser_bytes
from qvla.settings import load_settings

TASKS = ("captioning", "training")
OPTIMISERS = ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit")
# Bytes a number; int8 hands on and computes in 16 bits.
WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 2}

# Caption and end of the longest caption in a batch. Captions of RSICD and UC Merced have 12 words
# on average, and one in a hundred more than 22.
CAPTION_TOKENS = 23
NEW_TOKENS = 40  # `Decoding`'s own limit

# What a process takes on a GPU before its first tensor (CUDA's context with the kernels of
# PyTorch, cuBLAS and bitsandbytes), and cuBLAS's workspace: assumed, as it goes by driver and card.
CUDA_CONTEXT = 600 * 2**20
CUDA_WORKSPACE = 32 * 2**20
# On the CPU what a process takes above its imports that is no tensor: tokeniser, modules, what the
# C library keeps for later, and in training above all oneDNN's kernels, which it makes for every
# length of a batch anew. Measured over a dozen lengths, on models of 10 and of 45 M parameters.
PROCESS = {"captioning": 20 * 2**20, "training": 160 * 2**20}


class PlanError(QvlaError):
    """What was asked cannot be planned; the message says why."""


@dataclass(frozen=True)
class Plan:
    """Bytes by what holds them. `total` is their sum, though not all peak at one moment.

    `activations` are the most at any moment of a step: what autograd keeps and what comes and goes
    on top, the photos, and in captioning the cache. `overhead` is what no tensor of ours holds: on
    a GPU the CUDA context and workspaces, on the CPU what the process itself takes above its
    imports. `fits` are the usual GPUs: name, capacity in bytes, and whether the total leaves
    `qvla.planning.gpus.MARGIN` of it free. It is empty for the CPU.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    overhead: int
    fits: list[tuple[str, int, bool]]
    device: str = "cuda"

    @property
    def total(self) -> int:
        return self.tensors + self.overhead

    @property
    def tensors(self) -> int:
        """What PyTorch's allocator is asked for."""
        return self.weights + self.gradients + self.optimiser + self.activations

    @property
    def process(self) -> int:
        """What `measure` finds, which on a GPU is its allocator: without the CUDA context."""
        return self.total - (CUDA_CONTEXT if self.device == "cuda" else 0)

    @property
    def smallest(self) -> str | None:
        """The smallest usual GPU that it fits; None where none does."""
        return next((name for name, _, fit in self.fits if fit), None)


def plan(
    model: str | Path = PALIGEMMA_3B,
    variant: str = "adapter",
    *,
    task: Literal["captioning", "training"] = "training",
    batch_size: int = 4,
    image_tokens: int | None = None,
    text_tokens: int | None = None,
    label_tokens: int | None = None,
    new_tokens: int = NEW_TOKENS,
    num_beams: int = 1,
    gradient_checkpointing: bool = False,
    optimiser: str = "adamw_torch",
    precision: str | None = None,
    autocast: bool = True,
    embeddings_8bit: bool | None = None,
    attention: str | None = None,
    device: str = "cuda",
    method: str = "bottleneck",
    skeleton: Skeleton | None = None,
    **fields: Any,
) -> Plan:
    """Predicts the memory of one process.

    Args:
        model: a built-in name, a checkpoint's folder (its weights may be missing), or a hub id.
        variant: `adapter` and `qvla` train an adapter on a frozen base, the vision tower without
            gradients; `base` trains every weight.
        batch_size: rows of a step, or photos that are captioned at once.
        image_tokens: of one photo; by default the model's own.
        text_tokens: of one row behind the photo: prompt, caption and end, with padding.
        label_tokens: labelled tokens of the whole batch; by default all of the text but the prompt.
        new_tokens, num_beams: of captioning.
        gradient_checkpointing: whether activations are recomputed in the backward pass.
        optimiser: as a recipe spells it: float32 states, or 8 bits.
        precision: of the base: fp32, bf16, fp16, or int8 (LLM.int8). By default bf16, but fp32 to
            train all weights and to caption on the CPU. QVLA is in NF4 and computes in 16 bits,
            or on the CPU in what `computing_in` says of this one.
        autocast: whether training computes in bf16.
        embeddings_8bit: whether QVLA's embedding table is held in 8 bits; by default as the setting
            `nf4_embeddings` says.
        attention: the decoder's, eager or sdpa; by default as a recipe chooses it for the device.
        device: cuda or cpu.
        method: of the adapter, a name in `qvla.methods.registry`.
        skeleton: of this model, where the caller has one already: of this method, if of any.
        fields: what a recipe may say of that method, such as `reduction_factor`; what is left out
            is at the recipe's default.

    Raises:
        PlanError: a variant, task, optimiser or count that does not exist.
        TrainingError: a method that does not exist, or a field that it does not have.
        BackboneError: an unknown model or one of a family that is not known here.
        BottleneckError: an adapter that this model cannot carry.
    """
    _check("variant", variant, VARIANTS)
    _check("task", task, TASKS)
    _check("optimiser", optimiser, OPTIMISERS)
    _check("device", device, ("cuda", "cpu"))
    _check("precision", precision, (None, *WIDTHS))
    _check("attention", attention, (None, "eager", "sdpa"))
    adapter = adapter_method(method)
    adapter_fields = fields_of(adapter, **fields)
    config = read_model_config(model)
    training = task == "training"
    family = family_of(config)
    if family.no_plan is not None:
        raise PlanError(
            f"The memory of a {family.title} cannot be planned, because {family.no_plan}: measure "
            "it with `qvla bench`."
        )
    prompt_tokens = family.prompt_tokens
    image_tokens = family.image_tokens(config) if image_tokens is None else image_tokens
    text_tokens = prompt_tokens + CAPTION_TOKENS if text_tokens is None else text_tokens
    if label_tokens is None:
        label_tokens = max(batch_size * (text_tokens - prompt_tokens), 1)
    _check_counts(
        {
            "batch size": batch_size,
            "number of image tokens": image_tokens,
            "number of text tokens": text_tokens,
            "number of labels": label_tokens,
            "number of beams": num_beams,
        }
    )
    quantised, full = variant == "qvla", training and variant == "base"
    if precision in ("int8", "fp16") and full:
        raise PlanError(f"A base in {precision} cannot be trained whole: choose fp32 or bf16.")
    if precision is None:
        wide = full or (device == "cpu" and not training)
        precision = "fp32" if wide and not quantised else "bf16"
    if attention is None:
        attention = "eager" if training and device == "cpu" else "sdpa"
    if embeddings_8bit is None:
        embeddings_8bit = load_settings().nf4_embeddings == "int8"

    skeleton = skeleton or Skeleton(config)
    trained, sizes = Trained(), skeleton.sizes
    number = WIDTHS[precision] if full else 4  # adapters are held in float32
    weights = WIDTHS[precision] * sum(sizes)
    if precision == "int8" and not quantised:
        weights = skeleton.quantised_bytes["int8"]
    width = WIDTHS[precision]
    if quantised:
        width = _nf4_width(family, embeddings_8bit, device, training and autocast)
        weights = _nf4_bytes(skeleton, embeddings_8bit, width, device == "cpu" and not training)
    if variant != "base":
        trained, sizes = skeleton.train(adapter, adapter_fields)
        weights += number * (sum(sizes) + skeleton.fixed)

    step = Step(
        rows=batch_size * (1 if training else num_beams),
        image_tokens=image_tokens,
        text_tokens=text_tokens if training else prompt_tokens,
        labels=label_tokens,
        compute=2 if training and autocast else width,
        residual=width,
        attention=attention,
    )
    # the largest quantised weight, which each product unpacks for itself
    layer_sizes = (rows * columns for rows, columns in skeleton.linear_layers.values())
    unpacked = width * max(layer_sizes) if quantised or precision == "int8" else 0
    if training:
        decoder = Decoder(config, step, trained)
        head = CHUNK_BYTES[device] if quantised and embeddings_8bit else 0
        head = min(head, width * decoder.vocabulary * decoder.hidden)
        activations = _step_activations(config, decoder, gradient_checkpointing, unpacked, head)
    else:
        activations = _captioning_activations(config, step, batch_size, new_tokens, unpacked)
    parts = {
        "weights": weights,
        "gradients": number * sum(sizes) if training else 0,
        "optimiser": optimiser_bytes(sizes, optimiser, number) if training else 0,
        "activations": activations,
        "overhead": CUDA_CONTEXT + CUDA_WORKSPACE if device == "cuda" else PROCESS[task],
    }
    fits = fitting(sum(parts.values())) if device == "cuda" else []
    return Plan(**parts, fits=fits, device=device)


def for_recipe(recipe: Recipe, *, device: str | None = None, **shapes: Any) -> Plan:
    """The plan of a fine-tune run, or of another `task` with what it makes. `shapes` are `plan`'s
    numbers of tokens, where they are known, and its `skeleton`.

    Without a `device` the recipe's own holds, `auto` being a GPU where there is one.
    """
    if device is None:
        device = recipe.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    method = recipe.kind.method
    adapter: dict[str, Any] = {}
    if method.is_adapter:
        adapter = {"method": method.name, **{name: getattr(recipe, name) for name in method.fields}}
    if recipe.objective == "cider":  # a photo's samples share what precedes them
        prompt = family_of(read_model_config(recipe.model)).prompt_tokens
        text = prompt + recipe.samples * CAPTION_TOKENS
        shapes.setdefault("text_tokens", text)
    return plan(
        recipe.model,
        _variant(recipe.kind),
        batch_size=recipe.batch_size,
        gradient_checkpointing=recipe.recomputes,
        optimiser=recipe.optimiser,
        precision=None if recipe.base_precision == "nf4" else recipe.base_precision,
        autocast=recipe.bf16,
        attention=None if recipe.attention == "auto" else recipe.attention,
        device=device,
        **adapter,
        **shapes,
    )


def _variant(kind: Kind) -> str:
    """The variant whose weights lie in memory as those of this kind of recipe do."""
    if not kind.method.is_adapter:
        return "base"
    return "qvla" if kind.quantised else "adapter"


def _step_activations(
    config: PreTrainedConfig, decoder: Decoder, checkpointing: bool, unpacked: int, head: int
) -> int:
    """The most at any moment of a training step: see the comments for the moments.

    `unpacked` and `head` are what products with quantised weights unpack: of a layer, of the head.
    """
    tower = Tower(config, decoder.step, decoder.trained)
    held = tower.inputs() + tower.features()
    kept = decoder.saved(checkpointing)
    layer = decoder.transient_layer(unpacked)
    if decoder.trained.dense:
        layer = max(layer, decoder.multiplied())
    recomputed = decoder.recomputed() if checkpointing else 0
    if tower.trains:
        kept += tower.saved(checkpointing)
        recomputed = max(recomputed, tower.recomputed()) if checkpointing else 0
    moments = (
        held + tower.forward() + unpacked,  # the photos, before anything is kept
        held + kept + decoder.transient_loss(head),  # where forward turns to backward
        held + kept - decoder.loss() + recomputed + layer,  # the last layer's backward pass
    )
    return max(moments)


def _captioning_activations(
    config: PreTrainedConfig, step: Step, photos: int, new_tokens: int, unpacked: int
) -> int:
    decoder, tower = Decoder(config, step, Trained()), Tower(config, replace(step, rows=photos))
    tokens = step.length + new_tokens
    held = tower.inputs() + tower.features()
    return held + max(tower.forward(), decoder.prefill() + decoder.cache(tokens)) + unpacked


def _nf4_width(family: Family, embeddings_8bit: bool, device: str, autocast: bool) -> int:
    """Bytes of a number that an NF4 base computes in; a run that has autocast asks for bfloat16."""
    if device != "cpu" or autocast:
        return 2
    int8_table = embeddings_8bit and family.holds_int8_table
    return computing_in(Precision.NF4, torch.device(device), int8_table=int8_table).itemsize


def _nf4_bytes(
    skeleton: Skeleton, embeddings_8bit: bool, width: int, for_captions_on_the_cpu: bool
) -> int:
    """Weights of an NF4 base, which are packed for captions where the CPU has AVX-512 BF16."""
    held = "nf4_int8_embeddings" if embeddings_8bit else "nf4"
    size = skeleton.quantised_bytes["nf4_int8_float32" if width == 4 else held]
    if for_captions_on_the_cpu and nf4.packs():
        for rows, columns in skeleton.linear_layers.values():
            if rows % nf4.PACKED_ROWS == 0 and columns % nf4.BLOCK == 0:
                size += 2 * (rows * columns // nf4.BLOCK)  # one more scale a block
    return size


def image_tokens(model: str | Path) -> int:
    """Tokens that one photo takes in this model's prompt; raises BackboneError."""
    config = read_model_config(model)
    return family_of(config).image_tokens(config)


def _check(what: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        names = ", ".join(str(name) for name in allowed if name is not None)
        raise PlanError(f"There is no {what} {value!r}: choose one of {names}.")


def _check_counts(counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if count < 1:
            raise PlanError(f"The {name} must be at least 1, not {count}.")
