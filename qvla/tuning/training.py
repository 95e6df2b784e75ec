"""One fine-tune run on the Transformers Trainer: adapters on a frozen PaliGemma, or all of it.

    python -m qvla train --method adapter --model checkpoints/mini --data DIR --output DIR
    accelerate launch -m qvla.tuning.training --config run.yaml

Only what was trained is saved, with `run.json`: recipe, data fingerprint, versions, curve and
speed. Checkpoints lie beside the output until the run is done, and the file of its events stays.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qvla.data.examples import read_examples
from qvla.data.risc import Example, fingerprint
from qvla.errors import QvlaError
from qvla.faults import first_line, is_out_of_memory
from qvla.methods.flags import add_arguments, read_recipe
from qvla.methods.recipe import Recipe, TrainingError
from qvla.tuning import checkpoints, events, preflight
from qvla.tuning.attempt import Attempt, Ended, Outcome
from qvla.tuning.run_events import Ender
from qvla.tuning.run_folder import claim
from qvla.tuning.training_data import sift
from qvla.words import counted

log = logging.getLogger(__name__)

ENDED = 128 + 15  # what shells report of a process that SIGTERM ended


def train(
    recipe: Recipe,
    examples: Sequence[Example] | None = None,
    eval_examples: Sequence[Example] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    ender: Ender | None = None,
) -> Outcome:
    """Runs the recipe and writes what it trained to `recipe.output`, complete or not at all.

    Without `examples` they are read from `recipe.data`. Raises DatasetError for data that cannot be
    read and TrainingError, before any weight is loaded, for what cannot work: unusable rows, an
    output that cannot be written, a batch or checkpoints too large for the machine; and during the
    run when the loss or a gradient is no finite number. The last checkpoint is then still there.
    Memory that runs out halves the batch once. Raises Ended when `ender` was asked to end the run.
    """
    if examples is None:
        own: dict[str, Any] = {"sources": recipe.sources, "template": recipe.caption_template}
        examples = read_examples(recipe.data, splits=recipe.splits, **own)
        if eval_examples is None and recipe.eval_splits:
            eval_examples = read_examples(recipe.data, splits=recipe.eval_splits, **own)
    sifted = sift(examples)
    training = sifted.kept
    evaluation = sift(eval_examples, "evaluation ").kept if eval_examples else []
    if recipe.eval_photos is not None and len(evaluation) > recipe.eval_photos:
        evaluation = random.Random(recipe.seed).sample(evaluation, recipe.eval_photos)
    photos = fingerprint(training)
    data: dict[str, Any] = {"fingerprint": photos, "photos": len(training)}
    data |= {"captions": sum(len(item.references) for item in training)}
    data |= {"left_out": sifted.left_out}
    preflight.check(recipe)
    earlier = claim(recipe, photos, resume=resume, overwrite=overwrite)
    if not resume:
        recipe.events.unlink(missing_ok=True)
    if earlier.said:
        _say(recipe, " ".join(earlier.said))

    run = Attempt(recipe, training, evaluation, data, earlier.checkpoint, ender or Ender())
    try:
        try:
            return run.go()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            smaller = _halved(recipe)
        # Out here the error is gone, and with its traceback the model and the tensors of the batch.
        _say(recipe, smaller.sentence)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        checkpoint = checkpoints.find(recipe.checkpoints).checkpoint
        try:
            run = Attempt(smaller.recipe, training, evaluation, data, checkpoint, run.ender)
            return run.go()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"Memory ran out with batches of {recipe.batch_size} and of half of it: start anew "
                "with a smaller --batch-size, or use --gradient-checkpointing or the method qvla."
            ) from error
    except Ended:
        events.append(recipe.events, "end", state="ended", text=str(Ended()))
        raise
    except Exception as error:
        sentence = str(error) if isinstance(error, QvlaError) else f"A fault: {first_line(error)}"
        events.append(recipe.events, "end", state="failed", text=sentence)
        raise


def _say(recipe: Recipe, sentence: str) -> None:
    """In the log, and among the run's events, once of several processes."""
    if _is_first():
        log.warning("%s", sentence)
        events.append(recipe.events, "note", text=sentence)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class _Smaller:
    recipe: Recipe
    sentence: str


def _halved(recipe: Recipe) -> _Smaller:
    """The same steps in half the batch; TrainingError when there is no half."""
    if recipe.batch_size == 1:
        raise TrainingError(
            "Memory ran out with a single photo a batch: use --gradient-checkpointing, the method "
            "qvla, or a smaller model."
        )
    if recipe.batch_size % 2:
        raise TrainingError(
            f"Memory ran out with batches of {recipe.batch_size}, which cannot be halved; start "
            "anew with a smaller --batch-size."
        )
    half, twice = recipe.batch_size // 2, recipe.gradient_accumulation * 2
    changes = {"batch_size": half, "gradient_accumulation": twice}
    return _Smaller(
        recipe.model_copy(update=changes),
        f"Memory ran out with batches of {recipe.batch_size}: the run goes on with {half}, and "
        f"{twice} of them a step.",
    )


def run(options: argparse.Namespace) -> int:
    """The `train` verb: 0 when the adapter is written, 1 with one sentence on stderr otherwise."""
    return run_and_report(
        lambda: train(read_recipe(options), resume=options.resume, overwrite=options.overwrite)
    )


def run_and_report(start: Callable[[], Outcome]) -> int:
    """A run from a shell: its result in one line, or what stopped it in one sentence.

    The exit code is 0 when it is done, 143 when SIGTERM ended it, and 1 otherwise.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        outcome = start()
    except Ended as error:
        print(error, file=sys.stderr)
        return ENDED
    except QvlaError as error:
        print(error, file=sys.stderr)
        return 1
    card = outcome.card
    if _is_first():
        speed = card["images_per_second"]
        steps = counted(card["steps"], "step")
        print(f"{outcome.folder}: {steps}, {speed} images a second")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="qvla train", description=__doc__.splitlines()[0])
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
