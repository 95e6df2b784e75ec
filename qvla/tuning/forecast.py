"""What a fine-tune run will take, told before it begins: parameters, memory and time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvla.data.examples import is_read_in_place, read_examples
from qvla.methods.recipe import Recipe, make_recipe
from qvla.methods.registry import FIELDS
from qvla.records.store import Kept

if TYPE_CHECKING:
    from qvla.planning.planner import Plan


@dataclass(frozen=True)
class Speed:
    """Images a second of an earlier run of the same method on the same base, and where from."""

    images_per_second: float
    source: str


@dataclass(frozen=True)
class Forecast:
    """`plan` is that of a GPU, `here` that of this machine; `photos` is None where the data would
    first have to be fetched, and `seconds` where that or a measured speed is missing.
    """

    trained: int
    base: int
    plan: Plan
    here: Plan
    photos: int | None
    steps: int | None
    seconds: float | None
    speed: Speed | None

    @property
    def percent(self) -> float:
        return 100 * self.trained / self.base


def forecast(recipe: Recipe, speed: Speed | None = None) -> Forecast:
    """Raises what `preflight.check` raises for a recipe that its base cannot carry."""
    from qvla.planning.planner import for_recipe

    trained, base = count_parameters(recipe)
    photos = count_photos(recipe)
    batch = recipe.batch_size * recipe.gradient_accumulation
    steps = recipe.max_steps
    if steps is None and photos is not None:
        steps = max(1, round(recipe.epochs * -(-photos // batch)))
    images: float | None = None if steps is None else steps * batch
    if recipe.max_steps is None and photos is not None:
        images = recipe.epochs * photos
    return Forecast(
        trained=trained,
        base=base,
        plan=for_recipe(recipe, device="cuda"),
        here=for_recipe(recipe),
        photos=photos,
        steps=steps,
        seconds=images / speed.images_per_second if images and speed else None,
        speed=speed,
    )


def count_parameters(recipe: Recipe) -> tuple[int, int]:
    """Parameters that the method trains, and those of the base, from the configuration alone."""
    values = recipe.model_dump(mode="json", include={"method", "model", "layers", *FIELDS})
    return _count(json.dumps(values, sort_keys=True))


def count_photos(recipe: Recipe) -> int | None:
    """Photos to train on; None for data that would first have to be fetched or written out.

    Raises DatasetError for data that cannot be read.
    """
    if not is_read_in_place(recipe.data):
        return None
    examples = read_examples(
        recipe.data,
        splits=recipe.splits,
        sources=recipe.sources,
        template=recipe.caption_template,
    )
    return sum(bool(example.references) for example in examples)


def check_data(recipe: Recipe) -> None:
    """Raises DatasetError for a split without a row and for data that cannot be read.

    Data that would first have to be fetched is left to the run.
    """
    if is_read_in_place(recipe.data):
        splits = [*recipe.splits, *recipe.eval_splits]
        read_examples(
            recipe.data, splits=splits, sources=recipe.sources, template=recipe.caption_template
        )


def speed_of(recipe: Recipe, cards: Iterable[dict[str, Any]], kept: Iterable[Kept]) -> Speed | None:
    """The newest measured speed of this method on this base.

    Args:
        cards: `run.json` of finished runs, the newest first; they go before records.
        kept: records, the oldest first, of which those of bench/training count.
    """
    name = recipe.model_name
    for card in cards:
        then = card.get("recipe", {})
        if card.get("features_kept") and _looks_anew(recipe):
            continue  # it was faster than this run can be
        if (then.get("method"), then.get("model")) == (recipe.method, name):
            measured = card.get("images_per_second")
            if measured:
                return Speed(measured, f"an earlier job on {card.get('device', 'this machine')}")
    found = None
    for one in kept:
        measured = one.record.numbers.get(f"{recipe.method}/images_per_second")
        if one.record.what == "bench/training" and one.record.model == name and measured:
            found = Speed(measured, f"the training suite on {_machine(one)}")
    return found


def _looks_anew(recipe: Recipe) -> bool:
    """Whether every step has photos, or views of them, that were not looked at before."""
    return recipe.augment != "none" or (recipe.max_steps is None and recipe.epochs <= 1)


@lru_cache(maxsize=64)
def _count(values: str) -> tuple[int, int]:
    from qvla.models.params import read_model_config
    from qvla.tuning.methods import stand_in

    recipe = make_recipe(**json.loads(values), data=Path("data"), output=Path("output"))
    config = read_model_config(recipe.model)
    skeleton = stand_in(config, recipe)
    trained = (one.numel() for one in skeleton.model.parameters() if one.requires_grad)
    return sum(trained), sum(skeleton.sizes)


def _machine(kept: Kept) -> str:
    names: Sequence[str] = kept.record.hardware.accelerators or [kept.record.hardware.processor]
    return ", ".join(names)
