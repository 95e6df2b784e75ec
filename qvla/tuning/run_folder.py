"""The folders of a fine-tune run: its checkpoints while it lasts, its output when it is done."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qvla.files import write_json
from qvla.methods.recipe import MAY_CHANGE, Recipe, TrainingError

RECIPE_FILE = "recipe.json"
CARD_FILE = "run.json"
# The last file that the Trainer writes into a checkpoint, so its presence means that it is whole.
LAST_WRITTEN = "trainer_state.json"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; what an interruption left half-written is passed over."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        try:
            json.loads((checkpoint / LAST_WRITTEN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return checkpoint
    return None


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(checkpoint.name.rpartition("-")[2])


def claim(recipe: Recipe, fingerprint: str, *, resume: bool, overwrite: bool) -> Path | None:
    """Makes the run's folder, and returns the checkpoint to resume from.

    Raises TrainingError when the output is taken or cannot be written, when an unfinished run is in
    the way, and when a run cannot be resumed as asked.
    """
    output, checkpoints = recipe.output, recipe.checkpoints
    if output.exists() and not overwrite:
        raise TrainingError(f"{output} is there already; add --overwrite to replace it.")
    if output.exists() and not (output / CARD_FILE).is_file():
        raise TrainingError(f"{output} holds no earlier run, so it is not replaced; name another.")
    earlier = last_checkpoint(checkpoints)
    if resume and earlier is None:
        raise TrainingError(f"There is no whole checkpoint to resume from in {checkpoints}.")
    if earlier is not None and not resume and not overwrite:
        raise TrainingError(
            f"{checkpoints} holds an unfinished run; add --resume to go on with it or --overwrite "
            "to start anew."
        )
    note = {"recipe": recipe.model_dump(mode="json", exclude=MAY_CHANGE), "data": fingerprint}
    writes = os.environ.get("RANK", "0") == "0"  # of several processes only the first
    if resume:
        _check_same(note, checkpoints / RECIPE_FILE)
        for later in checkpoints.glob("checkpoint-*") if writes else ():
            if step_of(later) > step_of(earlier):  # half-written when the run was cut off
                shutil.rmtree(later)
    elif writes:
        try:
            if checkpoints.exists():
                shutil.rmtree(checkpoints)
            checkpoints.mkdir(parents=True)
            write_json(checkpoints / RECIPE_FILE, note)
        except OSError as error:
            raise TrainingError(
                f"{output.parent} cannot be written to ({error.strerror}); name another output."
            ) from error
    return earlier if resume else None


def publish(save: Callable[[Path], None], recipe: Recipe, card: dict[str, Any]) -> None:
    """Has `save` write the result into a folder under a temporary name, adds the card, renames the
    folder into place, and takes the checkpoints away.
    """
    output = recipe.output
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        new, old = Path(folder) / "new", Path(folder) / "old"
        save(new)
        write_json(new / CARD_FILE, card)
        if output.exists():
            os.replace(output, old)
        os.replace(new, output)
    shutil.rmtree(recipe.checkpoints, ignore_errors=True)


def _check_same(now: dict[str, Any], path: Path) -> None:
    """A run goes on only with the recipe and the data it began with."""
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read, so the run cannot be resumed.") from error
    if now["data"] != then["data"]:
        raise TrainingError("The data has changed since the run began, so it cannot be resumed.")
    for name, value in now["recipe"].items():
        before = then["recipe"].get(name)
        if value != before:
            raise TrainingError(
                f"The run began with {name} {before!r}, so it cannot be resumed with {value!r}."
            )
