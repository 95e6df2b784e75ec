"""Image features kept from epoch to epoch, where every epoch would compute the same ones.

That is so when nothing in the vision tower or the projector is trained or dropped out, and no photo
is turned or cropped: each photo is then looked at once in a run, as part of the first batch that
shows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from peft import PeftModel
from transformers import PreTrainedConfig

from qvla.methods.recipe import Recipe
from qvla.models.families import family_of
from qvla.models.families.family import Family
from qvla.tuning.methods import Trained
from qvla.tuning.training_data import CaptionedPhotos

Look = Callable[[torch.Tensor], torch.Tensor]  # photos (D, 3, S, S) to features (D, T, W)


class KeptFeatures:
    """Features of the photos of a run, in the CPU's memory, of the type that they were computed in.

    Each of several processes keeps those of the photos that it was shown.
    """

    def __init__(self, photos: CaptionedPhotos) -> None:
        self._photos = photos
        self._known = torch.zeros(photos.distinct, dtype=torch.bool)
        self._kept: torch.Tensor | None = None  # (photos, T, W)

    def __call__(self, numbers: torch.Tensor, look: Look) -> torch.Tensor:
        """Features (D, T, W) of photos by their numbers (D,), on the device of the numbers.

        `look` computes, without gradients, those that are not there yet.
        """
        wanted = numbers.cpu()
        new = wanted[~self._known[wanted]]
        if len(new):
            seen = look(self._photos.pixel_values(new.tolist()).to(numbers.device))
            if self._kept is None:
                self._kept = seen.new_empty((len(self._known), *seen.shape[1:]), device="cpu")
            self._kept[new] = seen.cpu()
            self._known[new] = True
        assert self._kept is not None  # no batch is without a photo
        return self._kept[wanted].to(numbers.device)


def are_kept(recipe: Recipe, model: Trained, photos: int) -> bool:
    """Whether a run on so many photos keeps their features: each epoch would compute the same ones,
    there is more than one, and they fit into the recipe's `cache_mb`.

    `model` is as the method made it, with all that any stage of the run trains.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    step = recipe.batch_size * recipe.gradient_accumulation * processes
    shown = recipe.epochs * photos if recipe.max_steps is None else recipe.max_steps * step
    if recipe.augment != "none" or shown <= photos:
        return False
    family = family_of(model.config)
    size = 2 if recipe.bf16 or recipe.base_precision == "bf16" else 4  # bytes
    if photos * _numbers_of_a_photo(model.config) * size > recipe.cache_mb << 20:
        return False
    return _sees_alike(model, family)


def _sees_alike(model: Trained, family: Family) -> bool:
    """Whether a photo's features stay what they are for a whole run."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    for place in family.sight:
        part = base.get_submodule(place)
        if any(parameter.requires_grad for parameter in part.parameters()):
            return False
        if any(_drops_out(module) for module in part.modules()):
            return False
    return True


def _drops_out(module: torch.nn.Module) -> bool:
    """Whether a module is a dropout, or an attention that has one as a number."""
    share = module.p if isinstance(module, torch.nn.Dropout) else getattr(module, "dropout", 0.0)
    return isinstance(share, float) and share > 0.0


def _numbers_of_a_photo(config: PreTrainedConfig) -> int:
    """How many numbers the features of one photo are, by the model's shapes alone."""
    family = family_of(config)
    side = family.image_side(config)
    pixels = torch.zeros(1, 3, side, side, device="meta")
    return family.image_features(family.skeleton(config), pixels).numel()
