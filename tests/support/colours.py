"""Photos of four colours, a run that learns their captions, and its loss as the model has it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from PIL import Image

from qvla.captioning.prompts import CAPTION_PREFIX
from qvla.data.risc import Example
from qvla.methods.recipe import Recipe, make_recipe
from qvla.tuning.caption_trainer import caption_loss, image_features
from qvla.tuning.methods import add_method, load_base
from qvla.tuning.training_data import CaptionedPhotos, Collator
from tests.support.alone import processor_of

CAPTIONS = {
    (0, 130, 0): ("green trees .", "a green forest .", "many green trees next to a river ."),
    (40, 80, 200): ("the sea .", "white sea next to the beach .", "a beach ."),
    (128, 128, 128): ("a road .", "some planes are parked in the airport .", "the airport ."),
    (220, 210, 190): ("white houses .", "some buildings next to the road .", "many houses ."),
}


def write_colours(folder: Path) -> Path:
    """A RISC folder: noisy squares of four colours, of several sizes, captioned by colour."""
    (folder / "images").mkdir()
    noise = np.random.default_rng(0)
    rows = []
    for number in range(20):
        colour, captions = list(CAPTIONS.items())[number % 4]
        size = (40 + number, 48, 3)
        pixels = np.clip(np.array(colour) + noise.normal(0, 20, size), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        rows.append(["MADE", "train" if number < 12 else "val", f"{number}.png", *captions])
    write_table(folder, rows)
    return folder


def write_table(folder: Path, rows: Sequence[Sequence[str]]) -> None:
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "split", "image", *(f"caption_{n}" for n in range(1, 6))])
        writer.writerows([*row, *[""] * (8 - len(row))] for row in rows)


def recipe_for(model: Path, data: Path, output: Path, **changes: object) -> Recipe:
    settings = {
        "method": "adapter",
        "max_steps": 30,
        "learning_rate": 1e-2,
        "reduction_factor": 4,
        "device": "cpu",
        "bf16": False,
        "log_steps": 1,
        "sample_photos": 0,  # captions in each evaluation take longer than the steps
    }
    return make_recipe(model=str(model), data=data, output=output, **settings | changes)


def batch_of(model: Path, examples: list[Example]) -> dict[str, torch.Tensor]:
    processor = processor_of(model)
    photos = CaptionedPhotos(examples, processor, seed=0)
    return Collator(processor, CAPTION_PREFIX)([photos[row] for row in range(len(photos))])


def plain_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's own loss: every row's photo through the tower, logits of every position."""
    pixels = batch["pixel_values"][batch["photo_rows"]]
    text = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    return model(**text, pixel_values=pixels, labels=batch["labels"]).loss


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def our_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    features = image_features(model, batch["pixel_values"], batch["photo_rows"])
    total, count = caption_loss(model, batch, features)
    return total / count


def adapted(model: Path, data: Path, precision: str = "fp32", **changes: object) -> PeftModel:
    method = "qvla" if precision == "nf4" else "adapter"
    recipe = recipe_for(model, data, data / "none", method=method, **changes)
    torch.manual_seed(0)
    return add_method(load_base(recipe), recipe)
