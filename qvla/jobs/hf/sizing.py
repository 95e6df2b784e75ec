"""Which hardware a Hugging Face Job asks for, and after how long it is ended, from the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvla.errors import QvlaError

if TYPE_CHECKING:
    from qvla.methods.recipe import Recipe

# Flavours of Jobs with one GPU (`JobHardware` of huggingface_hub 2.4.0), the smallest and cheapest
# first: the GPU as the planner names it, and its dense products in bfloat16 by NVIDIA's data sheet,
# in 10^12 operations a second. The T4 has no bfloat16, so it is never chosen, only named.
FLAVOURS = (
    ("l4x1", "L4 24 GB", 121),
    ("a10g-small", "A10G 24 GB", 70),
    ("l40sx1", "L40S 48 GB", 362),
    ("a100-large", "A100 80 GB", 312),
    ("h200", "H200 141 GB", 989),
)
CPU = "cpu-upgrade"

SLOWEST = 0.05  # of the data sheet's operations: batches are small, and photos have to be opened
AROUND = 3600  # seconds for installing, fetching the base, evaluations and the last push
UNKNOWN = 12 * 3600  # where photos cannot be counted before they are fetched
LONGEST = 7 * 24 * 3600


@dataclass(frozen=True)
class Size:
    """A flavour, and the time-out in seconds."""

    flavour: str
    seconds: int


def size_of(recipe: Recipe, flavour: str | None = None, hours: float | None = None) -> Size:
    """The hardware and time-out of a run; what is given by a setting stands.

    Raises QvlaError where no flavour has room, or the family's memory cannot be planned, and what
    planning raises.
    """
    flavour = flavour or _flavour(recipe)
    return Size(flavour, int(hours * 3600) if hours else _seconds(recipe, flavour))


def _flavour(recipe: Recipe) -> str:
    from qvla.planning.gpus import fits_on
    from qvla.planning.planner import PlanError, for_recipe

    if recipe.device == "cpu":
        return CPU
    try:
        total = for_recipe(recipe, device="cuda").total
    except PlanError as error:
        raise QvlaError(f"{error} Name a flavour of Jobs by QVLA_JOB_FLAVOR.") from error
    for name, gpu, _ in FLAVOURS:
        if fits_on(gpu, total):
            return name
    raise QvlaError(
        f"The run takes {total / 1e9:.0f} GB and no flavour of Jobs with one GPU has them: lower "
        "the batch size, choose a method on NF4, or name a flavour by QVLA_JOB_FLAVOR."
    )


def _seconds(recipe: Recipe, flavour: str) -> int:
    """Three passes of the base over every token, and a fourth where activations are recomputed:
    forward, and backward through frozen layers or not, at two operations a parameter each.
    """
    from qvla.planning.planner import CAPTION_TOKENS, image_tokens
    from qvla.tuning.forecast import count_parameters, count_photos

    speed = {name: peak for name, _, peak in FLAVOURS}.get(flavour)
    photos: float | None = None
    if recipe.max_steps is not None:
        photos = recipe.max_steps * recipe.batch_size * recipe.gradient_accumulation
    elif (counted := count_photos(recipe)) is not None:
        photos = recipe.epochs * counted
    if photos is None or speed is None:
        return UNKNOWN
    _, base = count_parameters(recipe)
    passes = 4 if recipe.recomputes else 3
    tokens = image_tokens(recipe.model) + 2 * CAPTION_TOKENS
    samples = recipe.samples if recipe.objective == "cider" else 1
    operations = 2.0 * passes * base * tokens * samples * photos
    return min(LONGEST, AROUND + int(operations / (SLOWEST * speed * 1e12)))
