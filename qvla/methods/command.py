"""The shell command that runs a recipe."""

from __future__ import annotations

import shlex
from typing import Any

from qvla.methods.recipe import Recipe, flag


def command_line(recipe: Recipe) -> str:
    """The shell command that runs the same recipe; what is at its default is left out."""
    words = ["python", "-m", "qvla", "train"]
    for name, value in _changed(recipe).items():
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{flag(name)}")
        elif isinstance(value, (list, tuple)):
            words += [f"--{flag(name)}", *map(str, value)]
        else:
            words += [f"--{flag(name)}", str(value)]
    return shlex.join(words)


def _changed(recipe: Recipe) -> dict[str, Any]:
    values = {"method": recipe.method, **recipe.model_dump(mode="json", exclude_defaults=True)}
    method = recipe.kind.method
    own = {**method.defaults, "learning_rate": method.learning_rate}
    values = {name: value for name, value in values.items() if own.get(name) != value}
    return {name: value for name, value in values.items() if value is not None}
