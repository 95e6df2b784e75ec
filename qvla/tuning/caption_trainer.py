"""The Transformers Trainer with this project's loss for a frozen base.

The vision tower runs without gradients and once for each photo of a step, or of the whole run where
its features can be kept. Logits are computed only at positions that carry a label, in evaluation
too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import Sampler
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from qvla.captioning.prompts import IGNORED
from qvla.methods.recipe import Recipe, TrainingError
from qvla.methods.rows import names_of_rows
from qvla.models.families import family_of
from qvla.models.families.family import PROJECTOR, VISION_TOWER, Family
from qvla.models.footprint import part_of
from qvla.tuning.kept_features import KeptFeatures
from qvla.tuning.training_data import EpochSampler

# Of a batch of `training_data.Collator`.
NOT_TEXT = ("labels", "pixel_values", "photos", "photo_rows", "tasks")


def caption_loss(
    model: torch.nn.Module, inputs: dict[str, Any], features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy summed over the labelled tokens, and their count.

    `inputs` are a batch of `training_data.Collator`; where the adapter has several tasks, each row
    trains its own, or the first without `tasks`. `features` (B, image tokens, hidden) are the
    projected image features of each row. `model` is called whole, as several processes and autocast
    need, but its head only sees labelled positions.
    """
    targets = inputs["labels"][:, 1:]  # (B, T - 1): position t predicts token t + 1
    labelled = targets != IGNORED
    text = {name: tensor for name, tensor in inputs.items() if name not in NOT_TEXT}
    tasks, bare = inputs.get("tasks"), getattr(model, "module", model)
    names = None if tasks is None else names_of_rows(bare, tasks)
    output = model(
        **text,
        **({} if names is None else {"adapter_names": names}),
        **_family(model).given_features(features),
        logits_to_keep=pad(labelled, (0, 1)),  # (B, T) bool -> (N, vocabulary)
        use_cache=False,
    )
    loss = cross_entropy(output.logits.float(), targets[labelled], reduction="sum")
    return loss, labelled.sum()


def image_features(
    model: torch.nn.Module, pixel_values: torch.Tensor, photo_rows: torch.Tensor
) -> torch.Tensor:
    """Distinct photos (D, 3, S, S) through the vision tower, then one copy for each row.

    What is frozen keeps nothing for the backward pass.
    """
    family = _family(model)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    trained = torch.is_grad_enabled() and any(
        parameter.requires_grad
        for place in family.sight
        for parameter in base.get_submodule(place).parameters()
    )
    with torch.set_grad_enabled(trained):
        return family.image_features(base, pixel_values)[photo_rows]


class CaptionTrainer(Trainer):
    """The Trainer with this project's loss, order of photos, and refusal of numbers not finite.

    `rates` are learning rates of parts of the model, by the family's names of them; all others have
    that of the arguments. The schedule scales every one alike. Its warm-up is the arguments' or the
    `warmup_share` of all steps, whichever is longer.
    """

    def __init__(
        self,
        *args: Any,
        rates: Mapping[str, float] | None = None,
        warmup_share: float = 0.0,
        kept: KeptFeatures | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._kept = kept
        self._rates = rates or {}
        self._warmup_share = warmup_share
        # compute_loss divides by the tokens of the whole accumulated batch itself.
        self.model_accepts_loss_kwargs = True
        self.clock = Clock(self.get_total_train_batch_size(self.args))
        self.add_callback(self.clock)
        self.add_callback(FiniteGradients())

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        """Also a whole model's: its files have the names of published checkpoints, and the Trainer
        would pass over every one of them with a warning.
        """
        own: Any = self.model if model is None else model
        if isinstance(own, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        kept, found = type(own).from_pretrained(
            resume_from_checkpoint,
            dtype=own.dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        if found["missing_keys"] or found["mismatched_keys"]:
            raise TrainingError(
                f"{resume_from_checkpoint} lacks weights of this model: start anew with "
                "--overwrite."
            )
        own.load_state_dict(kept.state_dict())

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's own, of groups by part where parts have rates of their own."""
        own: Any = self.model if model is None else model
        if self.optimizer is None and self._rates:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, own)
            self.optimizer_cls_and_kwargs = (kind, {**options, "params": self._groups(own)})
        return super().create_optimizer(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        share = ceil(self._warmup_share * num_training_steps)
        self.args.warmup_steps = max(self.args.warmup_steps, share)
        return super().create_scheduler(num_training_steps, optimizer)

    def _groups(self, model: torch.nn.Module) -> list[dict[str, Any]]:
        """Parameter groups, those at the run's own rate first: the log tells the first one's."""
        family, decaying = _family(model), set(self.get_decay_parameter_names(model))
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                rate = self._rates.get(part_of(name, family), self.args.learning_rate)
                decay = self.args.weight_decay if name in decaying else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        own_first = sorted(groups, key=lambda key: key[0] != self.args.learning_rate)
        return [
            {"params": groups[rate, decay], "lr": rate, "weight_decay": decay}
            for rate, decay in own_first
        ]

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[tuple[int, int]]:
        """Of `CaptionedPhotos`, which are all that is trained on here."""
        photos: Any = self.train_dataset if train_dataset is None else train_dataset
        return EpochSampler(photos)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with self.accelerator.autocast():
            features = self.features(self.accelerator.unwrap_model(model), inputs)
        total, count = caption_loss(model, inputs, features)
        processes = self.accelerator.num_processes
        if num_items_in_batch is None or not model.training:
            # Also in evaluation with several processes: the Trainer there averages by photos.
            loss = total / count
        else:  # the mean over all processes and accumulated batches; DDP averages, so scale up
            loss = total / num_items_in_batch * processes
        self.refuse_if_not_finite(model, loss)
        return (loss, {"loss": loss}) if return_outputs else loss

    @property
    def features_kept(self) -> bool:
        """Whether each photo of the run is looked at once, and not in every epoch."""
        return self._kept is not None

    def features(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Projected image features (B, T, W) of each row: looked at now, or kept from before."""
        rows = inputs["photo_rows"]
        if self._kept is None or "photos" not in inputs:
            return image_features(model, inputs["pixel_values"], rows)

        def look(pixel_values: torch.Tensor) -> torch.Tensor:
            return image_features(model, pixel_values, torch.arange(len(pixel_values)))

        return self._kept(inputs["photos"], look)[rows]

    def refuse_if_not_finite(self, model: torch.nn.Module, loss: torch.Tensor) -> None:
        """Raises TrainingError for a loss in training that is no finite number."""
        # One process of several must not stop alone: FiniteGradients stops them all, since the
        # gradients are the same in each.
        if model.training and self.accelerator.num_processes == 1 and not torch.isfinite(loss):
            raise _not_finite("loss", self.state.global_step)


def rates_of(recipe: Recipe) -> dict[str, float]:
    """The learning rates that a recipe gives to parts of the model."""
    rates = {
        VISION_TOWER: recipe.vision_learning_rate,
        PROJECTOR: recipe.projector_learning_rate,
    }
    return {part: rate for part, rate in rates.items() if rate is not None}


def check_rates(model: torch.nn.Module, recipe: Recipe) -> None:
    """Raises TrainingError for a rate of a part in which the recipe trains nothing. `model` may be
    on the meta device.
    """
    family = _family(model)
    trained = {part_of(name, family) for name, p in model.named_parameters() if p.requires_grad}
    for part in rates_of(recipe).keys() - trained:
        name = {VISION_TOWER: "vision", PROJECTOR: "projector"}[part]
        raise TrainingError(
            f"The method {recipe.method} trains nothing in the {part.replace('_', ' ')} by this "
            f"recipe, so there is nothing for --{name}-learning-rate: leave it out."
        )


class FiniteGradients(TrainerCallback):
    """Stops before a step that would spoil the weights, and so the next checkpoint."""

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **given: Any,
    ) -> None:
        parameters = given["model"].parameters()
        norms = [one.grad.norm() for one in parameters if one.grad is not None]
        if not torch.isfinite(torch.stack(norms).sum()):
            raise _not_finite("gradient", state.global_step)


class Clock(TrainerCallback):
    """Time in steps, with their data, without evaluations and saving."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._mark = 0.0
        self.seconds = 0.0
        self.steps = 0

    @property
    def images_per_second(self) -> float:
        return self._batch * self.steps / self.seconds if self.seconds else 0.0

    def _reset(self, *_: Any, **__: Any) -> None:
        self._mark = time.perf_counter()

    on_epoch_begin = on_log = on_evaluate = on_save = _reset

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        self.seconds += time.perf_counter() - self._mark
        self.steps += 1
        self._reset()


def _family(model: torch.nn.Module) -> Family:
    """The family of a model that may be wrapped for several processes."""
    return family_of(getattr(getattr(model, "module", model), "config", None))


def _not_finite(what: str, step: int) -> TrainingError:
    return TrainingError(
        f"The {what} stopped being a finite number at step {step + 1}, so the run was stopped with "
        "its last checkpoint kept; start anew with a lower learning rate."
    )
