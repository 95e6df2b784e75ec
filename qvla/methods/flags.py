"""A recipe as flags of a command line, and as a YAML file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from qvla.methods.method import TrainingError
from qvla.methods.recipe import Recipe, flag, make_recipe
from qvla.settings import RECIPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag a field, plus --config, --resume and --overwrite. Flags win over the file."""
    own = ", ".join(_names())
    parser.add_argument(
        "--config",
        type=Path,
        help=f"YAML file with any of the settings below, or a recipe that comes with QVLA: {own}",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint of an earlier run"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an adapter or checkpoints already there"
    )
    for name, field in Recipe.model_fields.items():
        default = "" if field.is_required() or field.default is None else field.default
        text = f"{field.description} (default: {default})" if default != "" else field.description
        settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        kinds = [kind for kind in _members(field.annotation) if kind is not type(None)]
        if kinds == [bool]:
            settings["action"] = argparse.BooleanOptionalAction
        elif get_origin(kinds[0]) is list:
            settings["nargs"] = "*"
        elif get_origin(kinds[0]) is Literal:
            settings["metavar"] = "{" + ",".join(get_args(kinds[0])) + "}"
        parser.add_argument(f"--{flag(name)}", **settings)


def read_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe of parsed options: the file of --config, with the flags over it."""
    values: dict[str, Any] = {}
    if options.config is not None:
        own = RECIPES / f"{options.config}.yaml"
        file = own if str(options.config) in _names() else options.config
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            raise TrainingError(f"{options.config} is not a readable YAML file.") from error
        if not isinstance(values, dict):
            raise TrainingError(f"{options.config} must hold `name: value` lines.")
    given = {name: getattr(options, name) for name in Recipe.model_fields if name in options}
    return make_recipe(**{str(name): value for name, value in values.items()} | given)


def _names() -> list[str]:
    """The recipes that come with QVLA."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def _members(annotation: Any) -> list[Any]:
    """The members of a union, or the one type."""
    union = get_origin(annotation) is Union or type(annotation).__name__ == "UnionType"
    return list(get_args(annotation)) if union else [annotation]
