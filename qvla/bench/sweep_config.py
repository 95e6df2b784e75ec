"""A sweep's YAML file: settings that all runs share, and the runs, one by one or as grids.

    common: {max_steps: 200, batch_size: 8}
    evaluation: {split: val, photos: 200}
    runs:
      - method: [lora, adapter]
        seed: [0, 1, 2]
      - {method: lora, rank: [4, 8, 16]}

All names in `common` and in a run are those of a recipe (`qvla train`). A list of values is a grid:
every value with every value of the others. Where the setting itself is a list, such as `layers`, a
list of lists is. `method: all` stands for every method on a float base. Runs that come out the same
are one. The first seed of all comes before the second of any, so that a sweep that is ended early
has each once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qvla.errors import QvlaError
from qvla.methods.recipe import MAY_CHANGE, Recipe, make_recipe
from qvla.methods.registry import KINDS

# What a run does for the sweep's sake alone; a file may say otherwise.
QUIET: dict[str, Any] = {"eval_splits": [], "sample_photos": 0, "save_steps": 50}
EVERY_METHOD = "all"
BASE = "base"  # the label of the run that trains nothing
OUR_OWN = ("output", "start_from")  # of a recipe: the sweep says where things lie


class SweepError(QvlaError):
    """The sweep cannot be as the file says; the message says what to change."""


class EvaluationPlan(BaseModel):
    """How every run's captions are scored: greedy, by the standard protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str = "val"
    photos: int | None = Field(None, ge=1)  # always the same even sample
    resamples: int = Field(1000, ge=1)
    base: bool = True  # whether the untrained base is scored too, first
    max_new_tokens: int = Field(40, ge=1)


@dataclass(frozen=True)
class Run:
    """One recipe of a sweep. `label` tells it from the others in words; `key` from all others."""

    label: str
    key: str
    recipe: Recipe
    trains: bool = True  # else it is the recipe's base as it is


@dataclass(frozen=True)
class Sweep:
    """What a file asks for, checked."""

    name: str
    evaluation: EvaluationPlan
    runs: tuple[Run, ...]


def read_sweep(path: Path, folder: Path, defaults: Mapping[str, Any]) -> Sweep:
    """The sweep of a file, whose runs are written below `folder`.

    `defaults` are values of a recipe that the file may leave out. Raises SweepError, or
    TrainingError with what is wrong with a run's values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise SweepError(f"{path} is not a readable YAML file.") from error
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise SweepError(f"{path} must hold a list `runs`; `common` and `evaluation` may be there.")
    unknown = sorted(map(str, content.keys() - {"common", "evaluation", "runs"}))
    if unknown:
        raise SweepError(f"{path} has {unknown[0]}: there are common, evaluation and runs.")
    evaluation = _evaluation(path, content.get("evaluation") or {})
    shared = {**QUIET, **defaults, **_settings(path, "common", content.get("common") or {})}
    runs: dict[str, Run] = {}
    for number, entry in enumerate(content["runs"], start=1):
        for values in expand({**shared, **_settings(path, f"run {number}", entry)}):
            run = _run(values, evaluation, folder)
            runs.setdefault(run.key, run)
    if not runs:
        raise SweepError(f"{path} names no runs.")
    in_turn = sorted(runs.values(), key=lambda run: run.recipe.seed)
    if evaluation.base:
        first = in_turn[0]
        key = _key(first.recipe, evaluation, BASE)
        output = folder / f"{BASE}-{key}"
        recipe = first.recipe.model_copy(update={"output": output})
        in_turn.insert(0, Run(BASE, key, recipe, trains=False))
    return Sweep(path.stem, evaluation, tuple(in_turn))


def expand(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of a grid, the last setting varying fastest; one for what is no grid."""
    choices = [_choices(name, value) for name, value in settings.items()]
    return [dict(zip(settings, values, strict=True)) for values in product(*choices)]


def _choices(name: str, value: Any) -> Sequence[Any]:
    if name == "method" and value == EVERY_METHOD:
        return [kind.name for kind in KINDS.values() if not kind.quantised]
    if not isinstance(value, list):
        return [value]
    if _is_list(name):
        return value if value and all(isinstance(one, list | None) for one in value) else [value]
    return value


def _is_list(name: str) -> bool:
    """Whether a setting of a recipe is a list itself."""
    annotation = Recipe.model_fields[name].annotation if name in Recipe.model_fields else None
    return any(get_origin(one) is list for one in (annotation, *get_args(annotation)))


def _settings(path: Path, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SweepError(f"{path}: {where} must be `name: value` lines.")
    for name in OUR_OWN:
        if name in value:
            raise SweepError(f"{path}: {where} cannot name {name}; the sweep says where runs lie.")
    return {str(name): one for name, one in value.items()}


def _evaluation(path: Path, value: Any) -> EvaluationPlan:
    try:
        return EvaluationPlan.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "evaluation"
        raise SweepError(f"{path}: the evaluation's {name}: {first['msg']}.") from error


def _run(values: Mapping[str, Any], evaluation: EvaluationPlan, folder: Path) -> Run:
    recipe = make_recipe(**{"output": folder, **values})
    key = _key(recipe, evaluation)
    # By the key, so that what another file asks for does not lie in the way.
    recipe = recipe.model_copy(update={"output": folder / f"{recipe.method}-{key}"})
    return Run(label_of(recipe), key, recipe)


def _key(recipe: Recipe, evaluation: EvaluationPlan, untrained: str = "") -> str:
    """Twelve digits of a hash over all that a run's figures hang on but the photos themselves."""
    asked = recipe.model_dump(mode="json", exclude=MAY_CHANGE)
    if untrained:
        asked = {"base": untrained, "prefix": recipe.prefix}
    asked |= {"model": recipe.model_name, "data": recipe.data.name}
    text = json.dumps([asked, evaluation.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def label_of(recipe: Recipe) -> str:
    """The method with those of its own settings that are not at their defaults, and the seed."""
    method = recipe.kind.method
    usual = make_recipe(
        method=recipe.method, model=recipe.model, data=recipe.data, output=recipe.output
    )
    own = [
        f"{name.replace('_', ' ')} {getattr(recipe, name)}"
        for name in (*method.fields, "learning_rate")
        if getattr(recipe, name) != getattr(usual, name) or name == "rank"
    ]
    return ", ".join([recipe.method, *own, f"seed {recipe.seed}"])
