"""One attempt at a recipe: from loading the base to writing what was trained."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from qvla.data.risc import Example
from qvla.errors import QvlaError
from qvla.methods.recipe import Recipe
from qvla.methods.unfreezing import stages_of
from qvla.models.backbone import Backbone
from qvla.tuning import events
from qvla.tuning.caption_trainer import CaptionTrainer, rates_of
from qvla.tuning.checkpoints import step_of
from qvla.tuning.kept_features import KeptFeatures, are_kept
from qvla.tuning.methods import Trained, add_method, load_base, save, take_weights
from qvla.tuning.run_events import Ender, EventLog, Rotation, StepTurns, device_name
from qvla.tuning.run_folder import publish
from qvla.tuning.self_critical import PromptCollator, SampledPhotos, SelfCriticalTrainer
from qvla.tuning.training_data import CaptionedPhotos, Collator
from qvla.tuning.unfreezing import Unfreezing

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")


class Ended(QvlaError):
    """The run was asked to end before it was done."""

    def __init__(self) -> None:
        super().__init__("The run was ended; its last checkpoint is kept, so it can be resumed.")


@dataclass(frozen=True)
class Outcome:
    """A finished run: the folder of what was trained, and what its `run.json` says."""

    folder: Path
    card: dict[str, Any]


class EndTogether(TrainerCallback):
    """Has all processes of a run end at the same step, soon after one of them was asked to.

    A signal reaches them at different moments, and one that went on would wait for the others for
    ever.
    """

    def __init__(self, ender: Ender) -> None:
        self._ender = ender

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        asked = self._ender.asked  # read once: a signal may come while the others are heard
        if args.world_size > 1:
            heard = torch.tensor(int(asked), device=args.device)
            torch.distributed.all_reduce(heard, torch.distributed.ReduceOp.MAX)
            asked = bool(heard)
        if asked:
            self._ender.asked = True
            self._ender.on_step_end(args, state, control)


class Attempt:
    """One attempt at a recipe, from loading to the written result."""

    def __init__(
        self,
        recipe: Recipe,
        training: list[Example],
        evaluation: list[Example],
        data: dict[str, Any],
        checkpoint: Path | None,
        ender: Ender,
    ) -> None:
        self.recipe, self.data, self.checkpoint, self.ender = recipe, data, checkpoint, ender
        self.training, self.evaluation = training, evaluation

    def go(self) -> Outcome:
        recipe, checkpoint = self.recipe, self.checkpoint
        started = time.monotonic()
        if recipe.device != "cpu" and torch.cuda.is_available():
            torch.cuda.set_device(_local_process())  # the GPU that "cuda" and "auto" then mean
        backbone = load_base(recipe)
        _set_attention(backbone, recipe)
        set_seed(recipe.seed)
        model = add_method(backbone, recipe)
        if recipe.start_from is not None and isinstance(model, PeftModel):
            take_weights(model, recipe.start_from)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        trainer = _trainer(recipe, backbone, model, self.training, self.evaluation, self.ender)
        for callback in recipe.kind.method.callbacks(checkpoint):
            trainer.add_callback(callback)
        with self.ender.listening():
            result = trainer.train(
                resume_from_checkpoint=None if checkpoint is None else str(checkpoint)
            )
            # Until all have written their part of the last checkpoint: publishing takes it away,
            # and the launcher kills the others when one process leaves with a code.
            trainer.accelerator.wait_for_everyone()
        if self.ender.asked and result.global_step < trainer.state.max_steps:
            raise Ended
        history = trainer.state.log_history
        evaluated = {row["step"] for row in history if "eval_loss" in row}
        if evaluated and result.global_step not in evaluated:
            trainer.evaluate()

        card = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe": recipe.card(),
            "data": self.data,
            "versions": {name: version(name) for name in PACKAGES}
            | {"python": sys.version.split()[0]},
            "device": device_name(backbone.device),
            "computes_in": _computes_in(backbone, trainer),
            "parameters": {
                "trained": trained,
                "adapter_percent": round(_percent_of_base(model, trained), 4),
            },
            "steps": result.global_step,
            "resumed_from_step": None if checkpoint is None else step_of(checkpoint),
            "seconds": round(time.monotonic() - started, 1),
            "features_kept": trainer.features_kept,
            "images_per_second": round(trainer.clock.images_per_second, 2),
            "curve": [row for row in history if "loss" in row or "eval_loss" in row],
        }
        if trainer.is_world_process_zero():
            publish(lambda folder: save(model, backbone.processor, recipe, folder), recipe, card)
            events.append(recipe.events, "end", state="done", text="The run is done.")
        return Outcome(recipe.output, card)


def _trainer(
    recipe: Recipe,
    backbone: Backbone,
    model: Trained,
    training: list[Example],
    evaluation: list[Example],
    ender: Ender,
) -> CaptionTrainer:
    processor, settings = backbone.processor, {"seed": recipe.seed}
    settings["cache_bytes"] = recipe.cache_mb << 20
    photos: Callable[..., CaptionedPhotos] = CaptionedPhotos
    collate: type[Collator] | type[PromptCollator] = Collator
    kind: Callable[..., CaptionTrainer] = CaptionTrainer
    if recipe.objective == "cider":
        photos, collate = partial(SampledPhotos, samples=recipe.samples), PromptCollator
        kind = partial(SelfCriticalTrainer, processor=processor)
    kept = are_kept(recipe, model, len({example.image for example in training}))
    shown = photos(training, processor, augment=recipe.augment, features_kept=kept, **settings)
    held_out = photos(evaluation, processor, **settings)
    on_cuda = backbone.device.type == "cuda"
    without_bf16 = on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False)
    assert recipe.learning_rate is not None  # the recipe has filled it in
    trackers: list[str] = list(recipe.report_to)
    arguments = TrainingArguments(
        output_dir=str(recipe.checkpoints),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.eval_batch_size or recipe.batch_size,
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
        bf16=recipe.bf16 and not without_bf16,
        fp16=recipe.bf16 and without_bf16,
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
        report_to=trackers or "none",
        disable_tqdm=not sys.stderr.isatty(),
        label_names=["photo_rows"],  # what a batch must hold to have a loss
        prediction_loss_only=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    told = EventLog(recipe, backbone, evaluation)
    # One process takes the turn for all on its machine: they wait for each other in every step, so
    # two that wanted the lock would wait for ever.
    lock = recipe.device_lock if _local_process() == 0 else None
    watching: list[TrainerCallback] = [told, Rotation(), EndTogether(ender), StepTurns(lock)]
    if recipe.unfreeze is not None:
        watching.append(Unfreezing(model, stages_of(recipe.unfreeze)))
    trainer = kind(
        model=model,
        rates=rates_of(recipe),
        warmup_share=recipe.warmup_share,
        kept=KeptFeatures(shown) if kept else None,
        args=arguments,
        data_collator=collate(processor, recipe.prefix),
        train_dataset=shown,
        eval_dataset=held_out if evaluation else None,
        callbacks=watching,
    )
    told.images_per_second = lambda: trainer.clock.images_per_second
    return trainer


def _computes_in(backbone: Backbone, trainer: CaptionTrainer) -> str:
    """The type of the products: that of autocast, where it is on."""
    if trainer.args.fp16:
        return "float16"
    return "bfloat16" if trainer.args.bf16 else backbone.computes_in


def _local_process() -> int:
    """Which of the processes that `accelerate launch` started on this machine this is."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _schedule(recipe: Recipe) -> str:
    if recipe.lr_scheduler == "constant" and (recipe.warmup_steps or recipe.warmup_share):
        return "constant_with_warmup"
    return recipe.lr_scheduler


def _set_attention(backbone: Backbone, recipe: Recipe) -> None:
    """On the CPU, fused attention's backward is slower than the plain one at these lengths."""
    chosen, own = recipe.attention, backbone.family.attention(backbone.model.config)
    if set(own.values()) == {"eager"}:
        return  # it has no other
    if chosen == "auto":
        if backbone.device.type == "cuda":
            return  # as loaded: SDPA, but for Gemma 2, which it cannot do
        chosen = "eager"
    backbone.model.set_attn_implementation({"text_config": chosen})


def _percent_of_base(model: Trained, trained: int) -> float:
    """Trained parameters in percent of the base's (4-bit weights counted unpacked)."""
    if not isinstance(model, PeftModel):
        return 100.0
    _, everything = model.get_nb_trainable_parameters()
    return 100 * trained / (everything - trained)
