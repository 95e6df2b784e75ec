"""The folders of a fine-tune run: its checkpoints while it lasts, its output when it is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from qvla.files import parse_json, whole_folder, write_json
from qvla.methods.recipe import MAY_CHANGE, Recipe, TrainingError
from qvla.tuning import checkpoints
from qvla.tuning.checkpoints import Found

RECIPE_FILE = "recipe.json"
CARD_FILE = "run.json"


def claim(recipe: Recipe, fingerprint: str, *, resume: bool, overwrite: bool) -> Found:
    """Makes the run's folder, and returns the checkpoint to resume from, if that is asked for.

    Raises TrainingError when the output is taken or cannot be written, when an unfinished run is in
    the way, and when a run cannot be resumed as asked.
    """
    output, folder = recipe.output, recipe.checkpoints
    if output.exists() and not overwrite:
        raise TrainingError(f"{output} is there already; add --overwrite to replace it.")
    if output.exists() and not (output / CARD_FILE).is_file():
        raise TrainingError(f"{output} holds no earlier run, so it is not replaced; name another.")
    earlier = checkpoints.find(folder)
    if resume and earlier.checkpoint is None:
        why = " ".join(("", *earlier.said, "Start anew with --overwrite.")) if earlier.said else ""
        raise TrainingError(f"There is no whole checkpoint to resume from in {folder}.{why}")
    if earlier.checkpoint is not None and not resume and not overwrite:
        raise TrainingError(
            f"{folder} holds an unfinished run; add --resume to go on with it or --overwrite "
            "to start anew."
        )
    note = {"recipe": recipe.model_dump(mode="json", exclude=MAY_CHANGE), "data": fingerprint}
    writes = os.environ.get("RANK", "0") == "0"  # of several processes only the first
    if resume:
        _check_same(note, folder / RECIPE_FILE)
    if not writes:
        return earlier if resume else Found(None)
    try:
        if resume:  # what was passed over is in the way of the checkpoints that are still to come
            assert earlier.checkpoint is not None  # as was seen above
            later = checkpoints.checkpoints_in(folder).index(earlier.checkpoint)
            for passed_over in checkpoints.checkpoints_in(folder)[:later]:
                shutil.rmtree(passed_over)
        else:
            _remove(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / RECIPE_FILE, note)
    except OSError as error:
        raise TrainingError(
            f"{output.parent} cannot be written to ({error.strerror}); name another output."
        ) from error
    return earlier if resume else Found(None)


def publish(save: Callable[[Path], None], recipe: Recipe, card: dict[str, Any]) -> None:
    """Has `save` write the result into a folder under a temporary name, adds the card, renames the
    folder into place, and takes the checkpoints away.
    """
    with whole_folder(recipe.output, replace=True) as folder:
        save(folder)
        write_json(folder / CARD_FILE, card)
    with suppress(OSError):
        _remove(recipe.checkpoints)


def _remove(folder: Path) -> None:
    """Takes a run's state away, but nothing that somebody else has laid beside it."""
    checkpoints.remove(folder)
    (folder / RECIPE_FILE).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _check_same(now: dict[str, Any], path: Path) -> None:
    """A run goes on only with the recipe and the data it began with."""
    try:
        then = parse_json(path.read_bytes())
        data, recipe = then["data"], dict(then["recipe"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise TrainingError(f"{path} cannot be read, so the run cannot be resumed.") from error
    if now["data"] != data:
        raise TrainingError("The data has changed since the run began, so it cannot be resumed.")
    for name, value in now["recipe"].items():
        # A field that came after the run began had no say in it, as it has none at its default.
        before = recipe.get(name, Recipe.model_fields[name].default)
        if value != before:
            raise TrainingError(
                f"The run began with {name} {before!r}, so it cannot be resumed with {value!r}."
            )
