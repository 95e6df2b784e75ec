"""The photos that the embedded model is trained on, with their captions and scene classes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from qvla.data.examples import read_examples
from qvla.data.risc import Example


@dataclass(frozen=True)
class TrainingPhoto:
    example: Example
    scene: str  # the class folder that the photo's own data set filed it under

    @property
    def source(self) -> str:
        return self.example.source


def training_photos(folder: Path) -> list[TrainingPhoto]:
    """RISC's train split, then the NWPU train photos, which have one caption or a few each."""
    examples = read_examples(folder, splits=["train"])
    with (folder / "origin.csv").open(newline="", encoding="utf-8") as file:
        scenes = {row["image"]: row["scene_class"] for row in csv.DictReader(file)}
    images = examples[0].image.parent
    extra: dict[str, list[str]] = {}
    with (folder / "nwpu_train_extra.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            extra.setdefault(row["image"], []).append(row["caption"].strip())
            scenes[row["image"]] = row["scene_class"]
    examples += [
        Example(images / name, "NWPU", "train", tuple(captions)) for name, captions in extra.items()
    ]
    return [TrainingPhoto(example, _plain(scenes[example.name])) for example in examples]


def _plain(scene: str) -> str:
    """One spelling over the three data sets, which write bareland, bare land and bare_land."""
    return "".join(letter for letter in scene.lower() if letter.isalnum())
