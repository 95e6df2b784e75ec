"""Stages 2 and 3: the embedded model's adapters, trained on `caption en` with the base frozen.

    python -m qvla.embedded.adapter --data DIR --base checkpoints/mini \\
        --out checkpoints/mini/adapter
    python -m qvla.embedded.adapter --data DIR --base checkpoints/mini \\
        --out checkpoints/mini/qvla --nf4

With `--task vqa` they learn to answer questions instead (`questions`), in a folder `vqa` within.

The code is that of any other run (`qvla.tuning.training`); only the recipe and the photos differ. A
frozen base as small as this one wants wider bottlenecks than the report's hidden/16, and photos
seen from above may be turned.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from safetensors.torch import load_file

from qvla.data.examples import read_examples
from qvla.embedded.questions import questions_of
from qvla.embedded.sources import times_of, training_photos
from qvla.files import write_tensors
from qvla.methods.recipe import Recipe, make_recipe
from qvla.models.adapters import WEIGHTS
from qvla.tuning.training import Outcome, run_and_report, train

EPOCHS = 20
REDUCTION_FACTOR = 2
LEARNING_RATE = 2e-3
EVALUATION_SOURCES = ("RSICD", "UCM")  # what the training photos are made of


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)

    def start() -> Outcome:
        if options.task == "vqa":
            photos = questions_of(options.data, "train")
            evaluation = questions_of(options.data, "val", EVALUATION_SOURCES)
        else:
            told = training_photos(options.data)
            photos = [photo.example for photo in told for _ in range(times_of(photo))]
            evaluation = read_examples(options.data, splits=["val"], sources=EVALUATION_SOURCES)
        if options.photos is not None:
            drawn = random.Random(options.seed)
            images = list(dict.fromkeys(row.image for row in photos))
            kept = set(drawn.sample(images, min(options.photos, len(images))))
            photos = [row for row in photos if row.image in kept]
        outcome = train(
            _recipe(options, len(photos)),
            photos,
            evaluation,
            resume=options.resume,
            overwrite=options.overwrite,
        )
        store_in_bfloat16(outcome.folder)
        return outcome

    return run_and_report(start)


def store_in_bfloat16(folder: Path) -> None:
    """Halves the adapter's file: the repository keeps it, and the base beside it, in bfloat16."""
    path = folder / WEIGHTS
    write_tensors(path, {name: weight.bfloat16() for name, weight in load_file(path).items()})


def _recipe(options: argparse.Namespace, photos: int) -> Recipe:
    steps = -(-photos // options.batch_size)
    last = options.objective == "cider"
    return make_recipe(
        method="qvla" if options.nf4 else "adapter",
        model=str(options.base),
        data=options.data,
        output=options.out,
        objective=options.objective,
        samples=options.samples,
        start_from=options.start_from,
        epochs=options.epochs,
        max_steps=options.max_steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_scheduler="constant" if last else "cosine",
        warmup_steps=min(20 if last or options.task == "vqa" else 100, steps),
        reduction_factor=options.reduction_factor,
        dropout=options.dropout,
        train_norms=options.train_norms,
        augment=options.augment,
        bf16=options.bf16,
        precision=None if options.nf4 else "bf16" if options.bf16 else "fp32",
        gradient_checkpointing=False,
        eval_photos=512,
        eval_steps=100 if last else 2 * steps,
        save_steps=10 if last else min(steps, 100),
        log_steps=10 if last else 20,
        seed=options.seed,
        num_workers=options.num_workers,
        device=options.device,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder in the RISC layout, with origin.csv")
    add("--base", type=Path, required=True, help="the embedded base")
    add("--out", type=Path, required=True, help="folder to write the adapter to")
    add("--task", choices=("captions", "vqa"), default="captions", help="what it is taught")
    add("--nf4", action="store_true", help="train on the NF4 base (the QVLA adapter)")
    add("--resume", action="store_true", help="go on from the last checkpoint")
    add("--overwrite", action="store_true", help="replace what is there")
    add("--objective", choices=("captions", "cider"), default="captions", help="of the stage")
    add("--samples", type=int, default=5, help="captions of a photo that cider samples")
    add("--start-from", type=Path, help="the adapter of the stage before")
    add("--bf16", action=argparse.BooleanOptionalAction, default=True)
    add("--epochs", type=float, default=EPOCHS)
    add("--photos", type=int, help="train on so many of the photos, drawn by the seed")
    add("--max-steps", type=int, help="stop after these steps, not the epochs")
    add("--batch-size", type=int, default=128)
    add("--learning-rate", type=float, default=LEARNING_RATE)
    add("--reduction-factor", type=int, default=REDUCTION_FACTOR)
    add("--dropout", type=float, default=0.0)
    add("--train-norms", action=argparse.BooleanOptionalAction, default=False)
    add("--augment", choices=("none", "flips", "crops"), default="flips")
    add("--num-workers", type=int, default=0)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
