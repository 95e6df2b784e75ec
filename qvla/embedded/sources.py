"""The photos that the embedded model is trained on, with their captions and scene classes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from qvla.data.examples import read_examples
from qvla.data.risc import Example

NWPU_TIMES = 2  # as often as the others: few of its photos have captions, in a manner of their own


@dataclass(frozen=True)
class TrainingPhoto:
    example: Example
    scene: str  # the class folder that the photo's own data set filed it under

    @property
    def source(self) -> str:
        return self.example.source


def training_photos(folder: Path) -> list[TrainingPhoto]:
    """RISC's train split, then the NWPU train photos, which have one caption or a few each."""
    photos = photos_of(folder, "train")
    images = photos[0].example.image.parent
    extra: dict[str, list[str]] = {}
    scenes: dict[str, str] = {}
    for row in _table(folder / "nwpu_train_extra.csv"):
        extra.setdefault(row["image"], []).append(row["caption"].strip())
        scenes[row["image"]] = _plain(row["scene_class"])
    for name, captions in extra.items():
        example = Example(images / name, "NWPU", "train", tuple(captions))
        photos.append(TrainingPhoto(example, scenes[name]))
    return photos


def times_of(photo: TrainingPhoto) -> int:
    """How often a photo is shown where another is shown once."""
    return NWPU_TIMES if photo.source == "NWPU" else 1


def shares_of(photos: Sequence[TrainingPhoto], device: torch.device) -> torch.Tensor:
    """(N,) how probable each photo is in a draw by `times_of`, float64."""
    times = torch.tensor([times_of(photo) for photo in photos], dtype=torch.float64, device=device)
    return times / times.sum()


def photos_of(folder: Path, split: str) -> list[TrainingPhoto]:
    """The photos of a split of RISC, with the scene classes of `origin.csv`."""
    scenes = {row["image"]: _plain(row["scene_class"]) for row in _table(folder / "origin.csv")}
    return [
        TrainingPhoto(example, scenes[example.name])
        for example in read_examples(folder, splits=[split])
    ]


def scene_photos(folder: Path) -> list[TrainingPhoto]:
    """RSSCN7's photos, which have a scene and no caption: `scenes.csv` and the folder `photos`."""
    return [
        TrainingPhoto(
            Example(folder / "photos" / row["image"], "RSSCN7", "train", ()), _plain(row["scene"])
        )
        for row in _table(folder / "scenes.csv")
    ]


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _plain(scene: str) -> str:
    """One spelling over the three data sets, which write bareland, bare land and bare_land."""
    return "".join(letter for letter in scene.lower() if letter.isalnum())
