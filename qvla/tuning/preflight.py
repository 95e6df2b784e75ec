"""What is refused before any weight of a fine-tune run is loaded, each in one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import torch

from qvla.methods.recipe import Recipe, TrainingError
from qvla.models.families import family_of
from qvla.models.params import read_model_config
from qvla.planning.planner import for_recipe
from qvla.planning.trainable import Skeleton
from qvla.tuning import unfreezing
from qvla.tuning.caption_trainer import check_rates
from qvla.tuning.methods import check_start, stand_in

KEPT_CHECKPOINTS = 3  # two, and the one being written before the oldest goes
SPARE = 1.1  # optimiser files and cards are a little more than their tensors


def check(recipe: Recipe) -> None:
    """Raises TrainingError (or BackboneError, for a base that is not there) when the run cannot be.

    Asks the configuration alone: targets, optimiser, memory by the planner, and disk.
    """
    _check_optimiser(recipe)
    config = read_model_config(recipe.model)
    family = family_of(config)
    if family.no_training is not None:
        raise TrainingError(f"{family.title} is not trained here, because {family.no_training}.")
    if recipe.objective == "cider" and not family.one_text:
        raise TrainingError(
            f"The objective cider is for captions of a decoder, and {family.title} has none: leave "
            "--objective out."
        )
    skeleton = stand_in(config, recipe)
    model = skeleton.model
    if recipe.start_from is not None:
        check_start(config, recipe)
    check_rates(model, recipe)
    unfreezing.check(model, recipe)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if family.no_plan is None:
        check_memory(recipe, skeleton)
    check_disk(recipe, trained)


def check_memory(recipe: Recipe, skeleton: Skeleton) -> None:
    """Compares what the planner foresees, of that model, with what the device has free."""
    on_cuda = recipe.device != "cpu" and torch.cuda.is_available()
    device = "cuda" if on_cuda else "cpu"
    needed = for_recipe(recipe, device=device, skeleton=skeleton).total
    free = torch.cuda.mem_get_info()[0] if on_cuda else psutil.virtual_memory().available
    if needed > free:
        raise TrainingError(
            f"A batch of {recipe.batch_size} will not fit: the run needs about "
            f"{needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. Lower --batch-size and raise "
            "--gradient-accumulation, or use --gradient-checkpointing or the method qvla."
        )


def check_disk(recipe: Recipe, trained: int) -> None:
    """The checkpoints hold what is trained and two moments of it; the result, what is trained."""
    moment = 1 if recipe.optimiser.endswith("8bit") else 4  # bytes
    checkpoint = trained * (4 + 2 * moment)
    needed = int(SPARE * (KEPT_CHECKPOINTS * checkpoint + 4 * trained))
    free = shutil.disk_usage(_existing(recipe.output)).free
    if free < needed:
        raise TrainingError(
            f"The run's checkpoints need {needed / 1e9:.1f} GB of disk and {recipe.output.parent} "
            f"has {free / 1e9:.1f} GB left: make room or name another output."
        )


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return next(folder for folder in path.absolute().parents if folder.exists())


def _check_optimiser(recipe: Recipe) -> None:
    if recipe.optimiser.endswith("8bit") and (
        recipe.device == "cpu" or not torch.cuda.is_available()
    ):
        raise TrainingError(
            f"The optimiser {recipe.optimiser} needs a CUDA GPU; use adamw_torch here."
        )
