"""A few steps of fine-tuning in a process of its own, watched: the product's way or a plain one.

Run as `python -m qvla.bench.training_run JOB`, a JSON object with the fields of `Job`: prints one
JSON object, the fields of `Outcome`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from qvla.data.risc import Example
    from qvla.methods.recipe import Recipe

    Collate = Callable[[Sequence[Any]], dict[str, torch.Tensor]]

WAYS = ("product", "plain")
WARM_UP = 3  # steps before the timed ones: buffers, kernels and the optimiser's states are made
COUNTED = 2  # steps after the timed ones, in which tensors are counted
POINTS = 300  # of a curve
INTERVALS = {"cpu": 0.02, "cuda": 0.005}  # seconds between points before thinning


@dataclass(frozen=True)
class Job:
    """What to train, how, and for how many timed steps of an epoch. `device` is cpu or cuda."""

    way: str
    method: str
    model: str
    data: str
    device: str
    precision: str
    batch_size: int
    steps: int

    @property
    def epoch_steps(self) -> int:
        return WARM_UP + self.steps + COUNTED

    @property
    def all_steps(self) -> int:
        """Two epochs, of which the second ends with its timed steps."""
        return self.epoch_steps + WARM_UP + self.steps


@dataclass
class Outcome:
    """Bytes are those of `qvla.records.measure.Meter`, but for `activations`: what tensors took in
    a step above what they took at its start, from PyTorch's allocator. The curve begins with the
    weights loaded.
    """

    held: int = 0
    peak: int = 0
    activations: int = 0
    images: int = 0
    seconds: list[float] = field(default_factory=list)  # of each timed step, with its data
    images_again: int = 0  # the same of the second epoch, whose photos were all seen before
    seconds_again: list[float] = field(default_factory=list)
    curve_seconds: list[float] = field(default_factory=list)
    curve_bytes: list[int] = field(default_factory=list)
    # the most tokens of a row, the photo's included, and labels of a batch: up to the last timed
    # step, and of the steps in which tensors are counted
    timed_shape: tuple[int, int] = (0, 0)
    counted_shape: tuple[int, int] = (0, 0)
    fingerprint: str = ""
    photos: int = 0
    recipe: dict[str, Any] = field(default_factory=dict)


class Watch:
    """Measures a run from its own beginnings and ends of steps."""

    def __init__(self, job: Job, device: torch.device) -> None:
        from qvla.records.measure import Meter

        self.job = job
        self.device = device
        self.meter = Meter(device)
        self.outcome = Outcome()
        self._shapes: list[tuple[int, int, int]] = []  # rows, tokens and labels of each batch
        self._done = 0
        self._mark = 0.0
        self._model: torch.nn.Module | None = None
        self._curve = ExitStack()
        self._counting = ExitStack()

    def begins(self, model: torch.nn.Module) -> None:
        """The weights are loaded, and nothing was trained yet."""
        from qvla.records.measure import sampled

        self._model = model
        self.outcome.held = self.meter.held(model)
        in_files = self.outcome.held - self.meter.held()
        self._samples = self._curve.enter_context(
            sampled(lambda: self.meter.held() + in_files, INTERVALS[self.device.type])
        )

    def watching(self, collate: Collate) -> Collate:
        """The same collator, whose batches are noted."""
        from qvla.captioning.prompts import IGNORED

        def noting(items: Sequence[Any]) -> dict[str, torch.Tensor]:
            batch = collate(items)
            labels = batch["labels"][:, 1:] != IGNORED  # position t predicts token t + 1
            self._shapes.append((*batch["input_ids"].shape, int(labels.sum())))
            return batch

        return noting

    def step_begins(self) -> None:
        from qvla.records.measure import tensors_measured

        if WARM_UP + self.job.steps <= self._done < self.job.epoch_steps:
            self._usage = self._counting.enter_context(tensors_measured(self.device))

    def step_ends(self) -> None:
        from qvla.records.measure import clock

        now = clock(self.device)
        self._done += 1
        timed_until = WARM_UP + self.job.steps
        if WARM_UP < self._done <= timed_until:
            self.outcome.seconds.append(now - self._mark)
        elif self._done > self.job.epoch_steps + WARM_UP:
            self.outcome.seconds_again.append(now - self._mark)
        if self._done == timed_until:
            self.outcome.peak = self.meter.peak(self._model)
            self._end_curve()
        if timed_until < self._done <= self.job.epoch_steps:
            self._counting.close()
            most = self._usage.peak_bytes or 0  # which this device tells
            self.outcome.activations = max(self.outcome.activations, most)
        if self._done == WARM_UP:
            self.meter.reset()
        self._mark = clock(self.device)

    def finished(self) -> Outcome:
        timed_until = WARM_UP + self.job.steps
        again = self._shapes[self.job.epoch_steps + WARM_UP : self.job.all_steps]
        self.outcome.images = sum(rows for rows, _, _ in self._shapes[WARM_UP:timed_until])
        self.outcome.images_again = sum(rows for rows, _, _ in again)
        self.outcome.timed_shape = _largest(self._shapes[:timed_until])
        self.outcome.counted_shape = _largest(self._shapes[timed_until : self.job.epoch_steps])
        return self.outcome

    def _end_curve(self) -> None:
        self._curve.close()
        curve = self._samples.thinned(POINTS)
        self.outcome.curve_seconds, self.outcome.curve_bytes = curve.seconds, curve.values


def _largest(shapes: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    return max(tokens for _, tokens, _ in shapes), max(labels for _, _, labels in shapes)


def measure(job: Job) -> Outcome:
    """Trains here, for as many steps as the job says and a few more. Call it once in a process."""
    import bitsandbytes  # noqa: F401
    import torch

    from qvla.bench.arrangements import BenchError
    from qvla.data.examples import read_examples
    from qvla.data.risc import fingerprint
    from qvla.methods.recipe import make_recipe
    from qvla.models.families import families
    from qvla.tuning import training
    from qvla.tuning.training_data import sift

    families()
    del training  # imported before the meter is made, as all that training needs
    device = torch.device(job.device)
    photos = job.batch_size * job.epoch_steps
    found = sift(read_examples(job.data)).kept[:photos]
    if len(found) < job.batch_size:
        raise BenchError(f"{job.data} has fewer usable photos than a batch of {job.batch_size}.")
    with tempfile.TemporaryDirectory(prefix="qvla-bench-") as folder:
        examples = as_many(found, photos, Path(folder))
        recipe = make_recipe(
            method=job.method,
            model=job.model,
            data=job.data,
            output=Path(folder) / "adapter",
            max_steps=job.all_steps,
            batch_size=job.batch_size,
            device=job.device,
            precision=job.precision,
            log_steps=10 * job.all_steps,
            eval_splits=[],
            sample_photos=0,
        )
        if device.type == "cuda":
            torch.zeros(1, device=device)  # starts CUDA itself
        watch = Watch(job, device)
        (train_as_product if job.way == "product" else train_plainly)(recipe, examples, watch)
    outcome = watch.finished()
    outcome.fingerprint, outcome.photos = fingerprint(found), len(found)
    outcome.recipe = {
        name: getattr(recipe, name)
        for name in ("base_precision", "bf16", "recomputes", "optimiser", "attention")
    }
    return outcome


def as_many(examples: Sequence[Example], count: int, folder: Path) -> list[Example]:
    """The examples and, where they are too few for one epoch of so many, copies in the folder of
    their photos: as files of their own these were not seen before.
    """
    enough = list(examples)
    while len(enough) < count:
        original = enough[len(enough) - len(examples)]
        copied = folder / f"{len(enough)}{original.image.suffix}"
        shutil.copyfile(original.image, copied)
        enough.append(replace(original, image=copied))
    return enough


def train_as_product(recipe: Recipe, examples: list[Example], watch: Watch) -> None:
    """`qvla.tuning.training.train` itself, watched through a callback of its trainer."""
    from transformers import TrainerCallback

    from qvla.tuning import training
    from qvla.tuning.caption_trainer import CaptionTrainer

    class Watching(TrainerCallback):
        def on_train_begin(self, *_: Any, **given: Any) -> None:
            watch.begins(given["model"])

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.step_begins()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step_ends()

    make = CaptionTrainer.__init__

    def make_watched(trainer: CaptionTrainer, *args: Any, **kwargs: Any) -> None:
        make(trainer, *args, **kwargs)
        trainer.add_callback(Watching())
        collate: Any = trainer.data_collator
        trainer.data_collator = watch.watching(collate)

    # For the rest of this process, which is all ours.
    CaptionTrainer.__init__ = make_watched  # type: ignore[method-assign, assignment]
    training.train(recipe, examples, [])


def train_plainly(recipe: Recipe, examples: list[Example], watch: Watch) -> None:
    """The report's way: every photo through the vision tower as part of the model's call, logits at
    all positions, attention as Transformers chooses it. Data, adapter, precision, recomputing and
    optimiser are the product's.
    """
    import torch
    from torch.utils.data import DataLoader
    from transformers import set_seed

    from qvla.tuning.methods import add_method, load_base
    from qvla.tuning.training_data import CaptionedPhotos, Collator, EpochSampler

    backbone = load_base(recipe)
    set_seed(recipe.seed)
    model = add_method(backbone, recipe)
    model.train()
    if recipe.recomputes:
        model.activation_checkpointing_enable({"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert recipe.learning_rate is not None  # the recipe has filled it in
    optimiser = torch.optim.AdamW(
        trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    photos = CaptionedPhotos(examples, backbone.processor, seed=recipe.seed)
    collate = watch.watching(Collator(backbone.processor, recipe.prefix))
    sampler = EpochSampler(photos)
    loader = DataLoader(photos, recipe.batch_size, sampler=sampler, collate_fn=collate)
    device, done = backbone.device, 0
    watch.begins(model)
    while done < (recipe.max_steps or 0):
        for batch in loader:
            watch.step_begins()
            del batch["tasks"]
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            rows = batch.pop("photo_rows")
            batch["pixel_values"] = batch["pixel_values"][rows]
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
                loss = model(**batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, recipe.max_grad_norm)
            optimiser.step()
            optimiser.zero_grad()
            watch.step_ends()
            done += 1
            if done == recipe.max_steps:
                return
        photos.set_epoch(photos.epoch + 1)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Job(**json.loads(sys.argv[1]))))))
