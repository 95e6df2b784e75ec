"""One fine-tune run on the Transformers Trainer: bottleneck adapters on a frozen PaliGemma.

    python -m qvla train --method adapter --model checkpoints/mini --data DIR --output DIR
    accelerate launch -m qvla.training --config run.yaml

What is saved is the adapter alone, with `run.json`: recipe, data fingerprint, versions, curve and
speed. Checkpoints lie beside the output until the run is done.
"""

from __future__ import annotations

import argparse
import logging
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import TrainingArguments, set_seed

from qvla.backbone import Backbone, Precision, load_backbone
from qvla.bottleneck import BottleneckConfig
from qvla.caption_trainer import CaptionTrainer
from qvla.dataset import Example, fingerprint, read_examples
from qvla.errors import QvlaError
from qvla.recipe import Recipe, TrainingError, add_arguments, read_recipe
from qvla.run_folder import claim, publish, step_of
from qvla.training_data import CaptionedPhotos, Collator, usable

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")


@dataclass(frozen=True)
class Outcome:
    """A finished run: the adapter's folder and what `run.json` says."""

    folder: Path
    card: dict[str, Any]


def train(
    recipe: Recipe,
    examples: Sequence[Example] | None = None,
    eval_examples: Sequence[Example] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Runs the recipe and writes its adapter to `recipe.output`, complete or not at all.

    Without `examples` they are read from `recipe.data`. Raises TrainingError, before any weight is
    loaded, for unusable data or an output that cannot be written, and during the run when the loss
    or a gradient is no finite number; the last checkpoint is then still there.
    """
    if examples is None:
        examples = _read(recipe, recipe.splits)
        if eval_examples is None and recipe.eval_splits:
            eval_examples = _read(recipe, recipe.eval_splits)
    training, evaluation = _checked(examples), _checked(eval_examples, "evaluation ")
    if recipe.eval_photos is not None and len(evaluation) > recipe.eval_photos:
        evaluation = random.Random(recipe.seed).sample(evaluation, recipe.eval_photos)
    data = {"fingerprint": fingerprint(training), "photos": len(training)}
    data |= {"captions": sum(len(item.references) for item in training)}
    _check_optimiser(recipe)
    adapter_config(recipe)
    checkpoint = claim(recipe, data["fingerprint"], resume=resume, overwrite=overwrite)

    started = time.monotonic()
    backbone = load_backbone(
        recipe.model, Precision(recipe.base_precision), device=recipe.device, for_training=True
    )
    _set_attention(backbone, recipe)
    set_seed(recipe.seed)
    model = add_adapter(backbone, recipe)
    trainer = _trainer(recipe, backbone, model, training, evaluation)
    result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    history = trainer.state.log_history
    evaluated = {row["step"] for row in history if "eval_loss" in row}
    if evaluation and result.global_step not in evaluated:
        trainer.evaluate()

    card = {
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "recipe": recipe.card(),
        "data": data,
        "versions": {name: version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
        "device": _device_name(backbone.device),
        "parameters": {
            "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "adapter_percent": round(_adapter_percent(model), 4),
        },
        "steps": result.global_step,
        "resumed_from_step": None if checkpoint is None else step_of(checkpoint),
        "seconds": round(time.monotonic() - started, 1),
        "images_per_second": round(trainer.clock.images_per_second, 2),
        "curve": [row for row in history if "loss" in row or "eval_loss" in row],
    }
    if trainer.is_world_process_zero():
        publish(model, recipe, card)
    return Outcome(recipe.output, card)


def adapter_config(recipe: Recipe) -> BottleneckConfig:
    """The recipe's adapter in PEFT's terms; BottleneckError for a setting it cannot have."""
    return BottleneckConfig(
        reduction_factor=recipe.reduction_factor,
        activation=recipe.activation,
        layers=recipe.layers,
        sites=recipe.sites,
        dropout=recipe.dropout,
        train_norms=recipe.train_norms,
    )


def add_adapter(backbone: Backbone, recipe: Recipe) -> PeftModel:
    """The recipe's adapter around the backbone: trained in float32, everything else frozen."""
    model = get_peft_model(backbone.model, adapter_config(recipe))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def run(options: argparse.Namespace) -> int:
    """The `train` verb: 0 when the adapter is written, 1 with one sentence on stderr otherwise."""
    return run_and_report(
        lambda: train(read_recipe(options), resume=options.resume, overwrite=options.overwrite)
    )


def run_and_report(start: Callable[[], Outcome]) -> int:
    """A run from a shell: its result in one line, or what stopped it in one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        outcome = start()
    except QvlaError as error:
        print(error, file=sys.stderr)
        return 1
    card = outcome.card
    print(f"{outcome.folder}: {card['steps']} steps, {card['images_per_second']} images a second")
    return 0


def _trainer(
    recipe: Recipe,
    backbone: Backbone,
    model: PeftModel,
    training: list[Example],
    evaluation: list[Example],
) -> CaptionTrainer:
    processor, seed, cache_bytes = backbone.processor, recipe.seed, recipe.cache_mb << 20
    shown = CaptionedPhotos(
        training, processor, seed=seed, augment=recipe.augment, cache_bytes=cache_bytes
    )
    held_out = CaptionedPhotos(evaluation, processor, seed=seed, cache_bytes=cache_bytes)
    on_cuda = backbone.device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(recipe.checkpoints),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=_schedule(recipe),
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        optim=recipe.optimiser,
        seed=recipe.seed,
        use_cpu=not on_cuda,
        bf16=recipe.bf16,
        activation_checkpointing=recipe.recomputes,
        activation_checkpointing_kwargs={"use_reentrant": False},
        dataloader_num_workers=recipe.num_workers,
        dataloader_persistent_workers=recipe.num_workers > 0,
        dataloader_pin_memory=on_cuda,
        logging_steps=recipe.log_steps,
        logging_first_step=True,
        eval_strategy="steps" if evaluation else "no",
        eval_steps=recipe.eval_steps,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        report_to=recipe.report_to or "none",
        disable_tqdm=not sys.stderr.isatty(),
        label_names=["labels"],
        prediction_loss_only=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    return CaptionTrainer(
        model=model,
        args=arguments,
        data_collator=Collator(processor, recipe.prefix),
        train_dataset=shown,
        eval_dataset=held_out if evaluation else None,
    )


def _schedule(recipe: Recipe) -> str:
    if recipe.lr_scheduler == "constant" and recipe.warmup_steps:
        return "constant_with_warmup"
    return recipe.lr_scheduler


def _set_attention(backbone: Backbone, recipe: Recipe) -> None:
    """On the CPU, fused attention's backward is slower than the plain one at these lengths."""
    chosen = recipe.attention
    if chosen == "auto":
        if backbone.device.type == "cuda":
            return  # as loaded: SDPA, but for Gemma 2, which it cannot do
        chosen = "eager"
    backbone.model.set_attn_implementation({"text_config": chosen})


def _read(recipe: Recipe, splits: Sequence[str]) -> list[Example]:
    """The rows of some splits, each of which must have one."""
    examples = read_examples(recipe.data, splits=splits, sources=recipe.sources)
    present = {example.split for example in examples}
    for split in splits:
        if split not in present:
            of = f" of {', '.join(recipe.sources)}" if recipe.sources else ""
            raise TrainingError(f"{recipe.data} has no row{of} in the split {split!r}.")
    return examples


def _checked(examples: Sequence[Example] | None, kind: str = "") -> list[Example]:
    kept = usable(examples or ())
    if not kept and (examples or not kind):
        raise TrainingError(
            f"No {kind}row is usable: each needs a caption and a photo that can be opened."
        )
    return kept


def _check_optimiser(recipe: Recipe) -> None:
    if recipe.optimiser.endswith("8bit") and (
        recipe.device == "cpu" or not torch.cuda.is_available()
    ):
        raise TrainingError(
            f"The optimiser {recipe.optimiser} needs a CUDA GPU; use adamw_torch here."
        )


def _adapter_percent(model: PeftModel) -> float:
    """Trained parameters in percent of the base's (4-bit weights counted unpacked)."""
    trained, everything = model.get_nb_trainable_parameters()
    return 100 * trained / (everything - trained)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="qvla train", description=__doc__.splitlines()[0])
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
