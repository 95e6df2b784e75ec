"""Views of the training photos, each with what ImageNet networks see there.

A view is drawn anew whenever it is wanted: the whole photo, a crop of it, or, so that coarse
photos are less foreign, the photo at a smaller scale, mirrored at its edges. What the teachers see
in it is read off their features of the whole photo at the places of the view, so that each teacher
looks at each photo once.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from qvla.data.risc import Example
from qvla.embedded.teachers import BATCH, DEPTHS, GRID, SIZE, Teacher, stored_components
from qvla.files import write_json
from qvla.tuning.training_data import open_photo

log = logging.getLogger(__name__)

STUDENT_SIZE = 112  # pixels a side, what the embedded model is shown
STORED_SIZE = 192  # pixels a side, what the training photos have
SAMPLE = 1024  # photos, for the principal components
WHOLE, COARSE = 0.3, 0.2  # shares of the views; the others are crops
SMALLEST, LARGEST = 0.25, 2.0  # scales against the whole photo


@dataclass(frozen=True)
class Views:
    """Memory-mapped: `pixels` (N, 192, 192, 3) uint8; by teacher and depth, as `lite0 last`,
    `maps` (N, 7, 7, W) float16.
    """

    pixels: np.ndarray
    maps: dict[str, np.ndarray]

    def draw(
        self, rows: Sequence[int] | np.ndarray, rng: np.random.Generator, *, coarse: float = COARSE
    ) -> tuple[np.ndarray, np.ndarray]:
        """A view of each row's photo: pixels (B, 112, 112, 3) uint8, and the places (B, 4) of its
        left, top, right and bottom edge, where the photo's are 0 and 1.
        """
        drawn = [_view(self.pixels[row], coarse, rng) for row in rows]
        return np.stack([pixels for pixels, _ in drawn]), np.array([box for _, box in drawn])

    def seen(self, name: str, rows: Sequence[int] | np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """What a teacher sees there, (B, 7, 7, W) float32."""
        maps = torch.from_numpy(self.maps[name][rows].astype(np.float32)).permute(0, 3, 1, 2)
        steps = (np.arange(GRID) + 0.5) / GRID
        left, top, right, bottom = boxes.T[:, :, None]
        across, down = left + (right - left) * steps, top + (bottom - top) * steps  # (B, 7)
        shape = (len(boxes), GRID, GRID)
        places = [np.broadcast_to(across[:, None], shape), np.broadcast_to(down[:, :, None], shape)]
        grid = torch.from_numpy(2 * np.stack(places, -1) - 1).float()
        found = F.grid_sample(maps, grid, padding_mode="reflection", align_corners=False)
        there: np.ndarray = found.permute(0, 2, 3, 1).numpy()
        return there


def prepare(
    examples: Sequence[Example],
    folder: Path,
    *,
    teachers: Sequence[str],
    device: torch.device,
) -> Views:
    """Stores the photos and what each teacher sees, going on where an earlier call stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [example.name for example in examples]
    pixels = _photos(examples, folder, names)
    maps: dict[str, np.ndarray] = {}
    for name in teachers:
        maps |= _looked_at(name, pixels, folder, names, device)
    return Views(pixels, maps)


def _photos(examples: Sequence[Example], folder: Path, names: list[str]) -> np.ndarray:
    shape = (len(names), STORED_SIZE, STORED_SIZE, 3)
    part = _Part(folder / "photos", names)
    pixels = part.array("", np.uint8, shape)
    for start, stop in part.left(1024):
        for row in range(start, stop):
            pixels[row] = resized(open_photo(examples[row].image), STORED_SIZE)
        part.keep(stop)
    return pixels


def _looked_at(
    name: str, pixels: np.ndarray, folder: Path, names: list[str], device: torch.device
) -> dict[str, np.ndarray]:
    teacher = Teacher(name, device)
    sample = random.Random(0).sample(range(len(names)), min(SAMPLE, len(names)))
    batches = (_shown(pixels[sample[i : i + BATCH]]) for i in range(0, len(sample), BATCH))
    components = stored_components(teacher, batches, folder / f"{name}.npz")
    part = _Part(folder / name, names)
    maps = [
        part.array(f"-{depth}", np.float16, (len(names), GRID, GRID, each.basis.shape[1]))
        for depth, each in zip(DEPTHS, components, strict=True)
    ]
    for start, stop in part.left(BATCH):
        features = teacher.features(_shown(pixels[start:stop]))
        for stored, each, seen in zip(maps, components, features, strict=True):
            stored[start:stop] = each.reduce(seen).reshape(stop - start, *stored.shape[1:])
        part.keep(stop)
        if start // BATCH % 16 == 0:
            log.info("%s has looked at %d of %d photos", name, stop, len(names))
    return {f"{name} {depth}": stored for depth, stored in zip(DEPTHS, maps, strict=True)}


class _Part:
    """Arrays of a row a photo that are filled in order, and how far that has come."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self._path, self._names = path, names
        self._progress = path.with_suffix(".json")
        stored = json.loads(self._progress.read_text()) if self._progress.is_file() else {}
        self.done = stored["done"] if stored.get("names") == names else 0
        self._arrays: list[Any] = []

    def array(self, suffix: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        path = self._path.with_name(f"{self._path.name}{suffix}.npy")
        mode = "r+" if self.done else "w+"
        self._arrays.append(np.lib.format.open_memmap(path, mode, dtype, shape))
        array: np.ndarray = self._arrays[-1]
        return array

    def left(self, size: int) -> list[tuple[int, int]]:
        """What is still to be filled, in parts of at most so many rows."""
        end = len(self._names)
        return [(start, min(start + size, end)) for start in range(self.done, end, size)]

    def keep(self, done: int) -> None:
        for array in self._arrays:
            array.flush()
        write_json(self._progress, {"names": self._names, "done": done})


def _view(
    photo: np.ndarray, coarse: float, rng: np.random.Generator
) -> tuple[np.ndarray, list[float]]:
    kind, image = rng.random(), Image.fromarray(photo)
    if kind < WHOLE:
        return resized(image, STUDENT_SIZE), [0, 0, 1, 1]
    if kind < WHOLE + coarse:
        return _mirrored(image, math.exp(rng.uniform(math.log(SMALLEST), 0)), rng)
    side = 1 / math.exp(rng.uniform(0, math.log(LARGEST)))
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)) / 2)
    width, height = min(1, side * ratio), min(1, side / ratio)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    box = [left, top, left + width, top + height]
    pixels = len(photo)
    edges = (left * pixels, top * pixels, box[2] * pixels, box[3] * pixels)
    shown = image.resize((STUDENT_SIZE,) * 2, Image.Resampling.BICUBIC, box=edges)
    return np.asarray(shown), box


def _mirrored(
    image: Image.Image, scale: float, rng: np.random.Generator
) -> tuple[np.ndarray, list[float]]:
    """The photo at a scale below 1, and mirrored where it ends."""
    size = max(1, round(scale * STUDENT_SIZE))
    small = resized(image, size)
    starts = [int(rng.integers(2 * size)) for _ in range(2)]
    places = [(start + np.arange(STUDENT_SIZE)) % (2 * size) for start in starts]
    across, down = (np.minimum(place, 2 * size - 1 - place) for place in places)
    left, top = (start / size for start in starts)
    extent = STUDENT_SIZE / size
    return small[down][:, across], [left, top, left + extent, top + extent]


def whole(examples: Sequence[Example]) -> np.ndarray:
    """Photos as they are, at the student's size: (B, 112, 112, 3) uint8."""
    return np.stack([resized(open_photo(one.image), STUDENT_SIZE) for one in examples])


def resized(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def _shown(photos: np.ndarray) -> np.ndarray:
    return np.stack([resized(Image.fromarray(photo), SIZE) for photo in photos])
