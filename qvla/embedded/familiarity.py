"""Last: which photos are unlike those that the embedded model was trained on.

    python -m qvla.embedded.familiarity --data DIR --base checkpoints/mini

Writes a small file beside the base's weights (`qvla.captioning.familiarity`), which holds for these
weights alone: make it anew when the base changes. It holds no photo.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from qvla.captioning.familiarity import Familiarity, digest_of, fitted, pooled, write
from qvla.captioning.prompts import encode_images
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.embedded.adapter import EVALUATION_SOURCES
from qvla.embedded.sources import training_photos
from qvla.models.backbone import Backbone, load_backbone
from qvla.models.families import family_of
from qvla.progress import progress

BATCH = 32


def make_familiarity(data: Path, base: Path) -> Familiarity:
    """Of the photos that the base was trained on, with val's of the same sources held out."""
    backbone = load_backbone(str(base), "fp32", device="cpu")
    backbone.model.eval()
    training = [photo.example.image for photo in training_photos(data)]
    held_out = read_examples(data, splits=["val"], sources=EVALUATION_SOURCES)
    return fitted(
        pooled_features(backbone, training),
        pooled_features(backbone, [example.image for example in held_out]),
        digest_of(base),
    )


@torch.inference_mode()
def pooled_features(backbone: Backbone, photos: Sequence[Path]) -> torch.Tensor:
    """What the base sees in photos, (N, 2W); ImageError for one that cannot be opened."""
    family = family_of(backbone.model.config)
    seen = []
    with progress(len(photos), "Looking at photos") as bar:
        for start in range(0, len(photos), BATCH):
            images = [open_image(path) for path in photos[start : start + BATCH]]
            pixels = encode_images(backbone.processor, images).to(backbone.device)
            seen.append(pooled(family.image_features(backbone.model, pixels)))
            bar.step(len(images))
    return torch.cat(seen)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder in the RISC layout, with origin.csv"
    )
    parser.add_argument("--base", type=Path, required=True, help="the embedded base")
    options = parser.parse_args(arguments)
    made = make_familiarity(options.data, options.base)
    path = write(made, options.base)
    print(
        f"{path}: fitted on {made.photos:,} photos; {made.limit:.2f} is the 99th percentile of "
        f"the distances of {made.held_out:,} others."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
