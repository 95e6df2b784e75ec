"""How much memory a variant takes for captioning or training, told from its configuration alone.

Weights are counted on the meta device (`qvla.params`), activations derived from the architecture
(`qvla.activations`), so the answer takes a second and needs neither weights nor a GPU. How good it
is, the memory suite measures: `python -m qvla bench --suite memory`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from bitsandbytes.functional import has_avx512bf16
from peft import get_peft_model
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from qvla import nf4
from qvla.activations import Decoder, Step, Tower, Trained
from qvla.architectures import PALIGEMMA_3B
from qvla.bottleneck import BottleneckConfig
from qvla.errors import QvlaError
from qvla.gpus import fitting
from qvla.params import read_model_config, report
from qvla.settings import load_settings

if TYPE_CHECKING:
    from qvla.recipe import Recipe

VARIANTS = ("base", "adapter", "qvla")
TASKS = ("captioning", "training")
OPTIMISERS = ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit")
PRECISIONS = ("fp32", "bf16")

# <bos>, "caption en" and a newline, in Gemma's vocabulary: the tokens without a label.
PROMPT_TOKENS = 5
# Prompt, caption and <eos> of the longest caption in a batch. Captions of RSICD and UC Merced have
# 12 words on average, and one in a hundred more than 22.
TEXT_TOKENS = 28
NEW_TOKENS = 40  # `Decoding`'s own limit

# What a process takes on a GPU before its first tensor (CUDA's context with the kernels of
# PyTorch, cuBLAS and bitsandbytes), and cuBLAS's workspace: assumed, as it goes by driver and card.
CUDA_CONTEXT = 600 * 2**20
CUDA_WORKSPACE = 32 * 2**20
# On the CPU what a process takes above its imports that is no tensor: tokeniser, modules, what the
# C library keeps for later, and in training above all oneDNN's kernels, which it makes for every
# length of a batch anew. Measured over a dozen lengths, on models of 10 and of 45 M parameters.
PROCESS = {"captioning": 20 * 2**20, "training": 160 * 2**20}

# bitsandbytes: tensors below this keep float32 states; above, a byte a number and state, with a
# float32 scale for each block.
SMALLEST_8BIT, BLOCK_8BIT = 4096, 256


class PlanError(QvlaError):
    """What was asked cannot be planned; the message says why."""


@dataclass(frozen=True)
class Plan:
    """Bytes by what holds them. `total` is their sum, though not all peak at one moment.

    `activations` are the most at any moment of a step: what autograd keeps and what comes and goes
    on top, the photos, and in captioning the cache. `overhead` is what no tensor of ours holds: on
    a GPU the CUDA context and workspaces, on the CPU what the process itself takes above its
    imports. `fits` are the usual GPUs: name, capacity in bytes, and whether the total leaves
    `qvla.gpus.MARGIN` of it free. It is empty for the CPU.
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
        """What `qvla.measure` finds, which on a GPU is its allocator: without the CUDA context."""
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
    reduction_factor: int = 16,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] = ("attention", "mlp"),
    train_norms: bool = False,
    rank: int | None = None,
    lora_targets: Sequence[str] = (),
) -> Plan:
    """Predicts the memory of one process.

    Args:
        model: a built-in name, a checkpoint's folder (its weights may be missing), or a hub id.
        variant: `adapter` and `qvla` train bottleneck adapters on a frozen base, the vision tower
            without gradients; `base` trains every weight, which are then in float32.
        batch_size: rows of a step, or photos that are captioned at once.
        image_tokens: of one photo; by default the model's own.
        text_tokens: of one row behind the photo: prompt, caption and end, with padding.
        label_tokens: labelled tokens of the whole batch; by default all of the text but the prompt.
        new_tokens, num_beams: of captioning.
        gradient_checkpointing: whether activations are recomputed in the backward pass.
        optimiser: as a recipe spells it: float32 states, or 8 bits.
        precision: of the float base: fp32 or bf16; by default bf16 on a GPU and in training, else
            fp32. QVLA computes in bf16.
        autocast: whether training computes in bf16.
        embeddings_8bit: whether QVLA's embedding table is held in 8 bits; by default as the setting
            `nf4_embeddings` says.
        attention: the decoder's, eager or sdpa; by default as a recipe chooses it for the device.
        device: cuda or cpu.
        reduction_factor, layers, sites, train_norms: see `BottleneckConfig`.
        rank, lora_targets: of LoRA around these projections of the decoder, in place of bottleneck
            adapters.

    Raises:
        PlanError: a variant, task, optimiser or count that does not exist.
        BackboneError: an unknown model or one that is no PaliGemma.
        BottleneckError: an adapter that this model cannot carry.
    """
    config = read_model_config(model)
    training = task == "training"
    image_tokens = _tokens_of_a_photo(config) if image_tokens is None else image_tokens
    text_tokens = TEXT_TOKENS if text_tokens is None else text_tokens
    if training and label_tokens is None:
        label_tokens = batch_size * max(text_tokens - PROMPT_TOKENS, 1)
    _check("variant", variant, VARIANTS)
    _check("task", task, TASKS)
    _check("optimiser", optimiser, OPTIMISERS)
    _check("device", device, ("cuda", "cpu"))
    _check("precision", precision, (None, *PRECISIONS))
    _check("attention", attention, (None, "eager", "sdpa"))
    counts = {
        "batch size": batch_size,
        "number of image tokens": image_tokens,
        "number of text tokens": text_tokens,
        "number of labels": label_tokens or 1,
        "number of beams": num_beams,
    }
    for name, count in counts.items():
        if count < 1:
            raise PlanError(f"The {name} must be at least 1, not {count}.")
    if precision is None:
        precision = "bf16" if training or device == "cuda" else "fp32"
    full = training and variant == "base"
    trained = Trained()
    sizes = [parameter.numel() for parameter in _skeleton(config).parameters()] if full else []
    if variant != "base":
        places = range(config.text_config.num_hidden_layers) if layers is None else list(layers)
        if rank is not None:
            trained = Trained("lora", rank, places, lora_targets)
            sizes = list(_lora_sizes(config, trained))
        else:
            adapter = BottleneckConfig(
                reduction_factor=reduction_factor,
                layers=None if layers is None else list(layers),
                sites=list(sites),
                train_norms=train_norms,
            )
            width = config.text_config.hidden_size // reduction_factor
            trained = Trained("bottleneck", width, places, sites, train_norms)
            sizes = _bottleneck_sizes(config, adapter)
    held = "fp32" if full else precision
    if embeddings_8bit is None:
        embeddings_8bit = load_settings().nf4_embeddings == "int8"
    weights = _weights(model, config, variant, held, device, training, embeddings_8bit)
    weights += 0 if variant == "base" else 4 * sum(sizes)  # adapters are held in float32
    if attention is None:
        attention = "eager" if training and device == "cpu" else "sdpa"
    nf4_base = variant == "qvla"
    bf16 = nf4_base or precision == "bf16"
    step = Step(
        rows=batch_size * (1 if training else num_beams),
        image_tokens=image_tokens,
        text_tokens=text_tokens if training else PROMPT_TOKENS,
        labels=label_tokens or 1,
        compute=2 if (autocast if training else bf16) else 4,
        residual=2 if bf16 and not full else 4,
        attention=attention,
    )
    unpacked = _largest_layer(config) if nf4_base else 0
    if training:
        decoder = Decoder(config, step, trained)
        activations = _step_activations(config, decoder, step, gradient_checkpointing, unpacked)
    else:
        activations = _captioning_activations(config, step, batch_size, new_tokens, unpacked)
    sums = {
        "weights": weights,
        "gradients": 4 * sum(sizes) if training else 0,
        "optimiser": _optimiser_bytes(sizes, optimiser) if training else 0,
        "activations": activations,
        "overhead": CUDA_CONTEXT + CUDA_WORKSPACE if device == "cuda" else PROCESS[task],
    }
    fits = fitting(sum(sums.values())) if device == "cuda" else []
    return Plan(**sums, fits=fits, device=device)


def for_recipe(recipe: Recipe, *, device: str | None = None, **shapes: Any) -> Plan:
    """The plan of a fine-tune run. `shapes` are `plan`'s numbers of tokens, where they are known.

    Without a `device` the recipe's own holds, `auto` being a GPU where there is one.
    """
    if device is None:
        device = recipe.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    variants = {"nf4": "qvla", "full": "base"}
    is_lora = recipe.method in ("lora", "qlora")
    return plan(
        recipe.model,
        variants.get(recipe.method, variants.get(recipe.base_precision, "adapter")),
        task="training",
        batch_size=recipe.batch_size,
        gradient_checkpointing=recipe.recomputes,
        optimiser=recipe.optimiser,
        precision=None if recipe.base_precision == "nf4" else recipe.base_precision,
        autocast=recipe.bf16,
        attention=None if recipe.attention == "auto" else recipe.attention,
        device=device,
        reduction_factor=recipe.reduction_factor,
        layers=recipe.layers,
        sites=recipe.sites,
        train_norms=recipe.train_norms,
        rank=recipe.rank if is_lora else None,
        lora_targets=recipe.lora_targets if is_lora else (),
        **shapes,
    )


def _step_activations(
    config: PaliGemmaConfig, decoder: Decoder, step: Step, checkpointing: bool, unpacked: int
) -> int:
    """The most at any moment of a training step: see the comments for the moments."""
    tower = Tower(config, step)
    held = tower.inputs() + tower.features()
    kept = decoder.saved(checkpointing)
    layer = decoder.transient_layer() + unpacked
    recomputed = decoder.recomputed() if checkpointing else 0
    if decoder.full:
        kept += tower.saved(checkpointing)
        recomputed = max(recomputed, tower.recomputed()) if checkpointing else 0
    moments = (
        held + tower.forward() + unpacked,  # the photos, before anything is kept
        held + kept + decoder.transient_loss(),  # where forward turns to backward
        held + kept - decoder.loss() + recomputed + layer,  # the last layer's backward pass
    )
    return max(moments)


def _captioning_activations(
    config: PaliGemmaConfig, step: Step, photos: int, new_tokens: int, unpacked: int
) -> int:
    decoder, tower = Decoder(config, step, Trained()), Tower(config, replace(step, rows=photos))
    tokens = step.length + new_tokens
    held = tower.inputs() + tower.features()
    return held + max(tower.forward(), decoder.prefill() + decoder.cache(tokens)) + unpacked


def _weights(
    model: str | Path,
    config: PaliGemmaConfig,
    variant: str,
    precision: str,
    device: str,
    training: bool,
    embeddings_8bit: bool,
) -> int:
    counts = report(model)
    if variant != "qvla":
        return counts["weight_bytes"][precision]
    size = counts["weight_bytes"]["nf4_int8_embeddings" if embeddings_8bit else "nf4"]
    if device == "cpu" and not training and has_avx512bf16():
        size += sum(_packing(rows, columns) for _, rows, columns in _linear_layers(config))
    return size


def _packing(rows: int, columns: int) -> int:
    """What a layer grows by when it is packed for the CPU: one more scale a block (`qvla.nf4`)."""
    fits_packing = rows % nf4.PACKED_ROWS == 0 and columns % nf4.BLOCK == 0
    return 2 * (rows * columns // nf4.BLOCK) if fits_packing else 0


def _largest_layer(config: PaliGemmaConfig) -> int:
    """Bytes of the largest quantised weight in bfloat16, which each product unpacks for itself."""
    return 2 * max(rows * columns for _, rows, columns in _linear_layers(config))


def _linear_layers(config: PaliGemmaConfig) -> Iterator[tuple[str, int, int]]:
    """Name, outputs and inputs of every layer that NF4 quantises: all but the output head."""
    for name, module in _skeleton(config).named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            yield name, module.out_features, module.in_features


def _bottleneck_sizes(config: PaliGemmaConfig, adapter: BottleneckConfig) -> list[int]:
    """Numbers in each tensor of the adapter."""
    skeleton = _skeleton(config)
    with torch.device("meta"):
        model = get_peft_model(skeleton, adapter)
    return [tensor.numel() for tensor in model.parameters() if tensor.requires_grad]


def _lora_sizes(config: PaliGemmaConfig, trained: Trained) -> Iterator[int]:
    """Numbers in each matrix of LoRA around the decoder's projections."""
    for index in trained.layers:
        layer = f"language_model.layers.{index}."
        for name, rows, columns in _linear_layers(config):
            if layer in name and name.rpartition(".")[2] in trained.sites:
                yield from (trained.width * rows, trained.width * columns)


def _skeleton(config: PaliGemmaConfig) -> PaliGemmaForConditionalGeneration:
    with torch.device("meta"):
        return PaliGemmaForConditionalGeneration(config)


def _optimiser_bytes(sizes: Sequence[int], optimiser: str) -> int:
    """Adam's two states of every trained number (bitsandbytes: Dettmers et al., 2110.02861)."""
    if not optimiser.endswith("8bit"):
        return 8 * sum(sizes)
    total = 0
    for size in sizes:
        small = size < SMALLEST_8BIT
        total += 8 * size if small else 2 * (size + 4 * -(-size // BLOCK_8BIT))
    return total


def image_tokens(model: str | Path) -> int:
    """Tokens that one photo takes in this model's prompt; raises BackboneError."""
    return _tokens_of_a_photo(read_model_config(model))


def _tokens_of_a_photo(config: PaliGemmaConfig) -> int:
    vision = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2


def _check(what: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        names = ", ".join(str(name) for name in allowed if name is not None)
        raise PlanError(f"There is no {what} {value!r}: choose one of {names}.")
