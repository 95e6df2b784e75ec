"""Callbacks of the Trainer: they tell what happens in a run, and let the run be ended early."""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qvla.captioning.desk import greedy
from qvla.captioning.prompts import prompt_of
from qvla.captioning.sharing import DeviceLock
from qvla.data.imagery import open_image
from qvla.data.risc import Example
from qvla.methods.recipe import Recipe
from qvla.models.backbone import Backbone
from qvla.records.measure import peak_memory
from qvla.tuning import checkpoints, events
from qvla.tuning.methods import Trained

SAMPLE_TOKENS = 40
CHECKPOINTS_KEPT = 2  # the one before the last as well, should the last be damaged
PATIENCE = 10.0  # seconds in which further requests to end are taken for the same one


class EventLog(TrainerCallback):
    """Writes the run's events, in the first of several processes only."""

    def __init__(self, recipe: Recipe, backbone: Backbone, examples: Sequence[Example]) -> None:
        self.path = recipe.events
        self._recipe = recipe
        self._backbone = backbone
        self._samples = examples[: recipe.sample_photos]
        self.images_per_second = lambda: 0.0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Trained | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and model is not None:
            self._tell(
                "start",
                step=state.global_step,
                total_steps=state.max_steps,
                trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
                base_precision=self._recipe.base_precision,
                device=device_name(args.device),
                batch_size=self._recipe.batch_size,
                gradient_accumulation=self._recipe.gradient_accumulation,
            )
            if self._samples and state.global_step == 0:  # what later captions are compared with
                self._tell("samples", step=0, samples=self._captions(model))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        model: Trained | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self._tell(
                "step",
                step=state.global_step,
                loss=logs["loss"],
                learning_rate=logs.get("learning_rate"),
                images_per_second=round(self.images_per_second(), 3),
                memory_bytes=peak_memory(args.device),
            )
        elif "eval_loss" in logs and model is not None:
            samples = self._captions(model)
            self._tell(
                "evaluation", step=state.global_step, loss=logs["eval_loss"], samples=samples
            )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            self._tell("checkpoint", step=state.global_step)

    def _tell(self, event: str, **values: Any) -> None:
        events.append(self.path, event, **values)

    def _captions(self, model: Trained) -> list[dict[str, Any]]:
        """What the model says of the fixed photos now, with what people said."""
        if not self._samples:
            return []
        images = [open_image(example.image) for example in self._samples]
        with torch.autocast(self._backbone.device.type, torch.bfloat16, enabled=self._recipe.bf16):
            prompts = [prompt_of(item.question, self._recipe.prefix) for item in self._samples]
            said = caption_in_training(self._backbone, model, images, prompts)
        return [
            {"image": example.name, "caption": text, "references": list(example.references)}
            for example, text in zip(self._samples, said, strict=True)
        ]


def caption_in_training(
    backbone: Backbone, model: Trained, images: Sequence[Any], prompts: str | Sequence[str]
) -> list[str]:
    """Greedy captions of RGB images from the model as trained so far; its mode is given back."""
    was_training = model.training
    model.eval()
    try:
        return greedy(backbone, model, images, prompts, SAMPLE_TOKENS)
    finally:
        model.train(was_training)


class Rotation(TrainerCallback):
    """Keeps the last checkpoints. The Trainer's own rotation would take `checkpoint-3-backup`,
    which somebody has put beside them, for one of them and delete it.
    """

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            checkpoints.remove(Path(str(args.output_dir)), keep=CHECKPOINTS_KEPT)


class StepTurns(TrainerCallback):
    """Has a fine-tune take its turn on the device for every step, and give it back after it."""

    def __init__(self, path: Path | None) -> None:
        self._lock = DeviceLock(path)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._lock.take(shared=False)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._lock.give_back()

    on_train_end = on_step_end


class Ender(TrainerCallback):
    """Ends the run at the next step, with a checkpoint, once it is asked to."""

    def __init__(self) -> None:
        self.asked = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.asked:
            control.should_save = True
            control.should_training_stop = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGTERM asks for the end, where this is the main thread.

        The step under way is finished first: what it has computed would be lost. Who asks again
        after some seconds is not made to wait; one at once is another voice of the same wish, as
        when a service manager ends a worker and its children together.
        """
        first = 0.0

        def ask(number: int, frame: object) -> None:
            nonlocal first
            now = time.monotonic()
            if self.asked and now - first > PATIENCE:
                signal.signal(signal.SIGTERM, before)
                signal.raise_signal(signal.SIGTERM)
            elif not self.asked:
                self.asked, first = True, now

        try:
            before = signal.signal(signal.SIGTERM, ask)
        except ValueError:  # not the main thread: nobody can send it a signal
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
