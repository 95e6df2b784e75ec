"""A part of the photo, and what the model is given of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvla.captioning.loader import LineupLoader
from qvla.captioning.prompts import as_seen
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.compare import photo
from qvla.ui.compare.zoom import Zoom, box_of
from tests.support.serving import write_photo


def test_a_part_is_a_share_of_the_photo_in_pixels() -> None:
    assert box_of("0 0 1", (90, 60)) == (0, 0, 90, 60)
    assert box_of("0.5 0.25 0.5", (90, 60)) == (45, 15, 90, 45)
    assert box_of("0.9 0.9 0.1", (5, 3)) == (4, 2, 5, 3)


@pytest.mark.parametrize(
    "wanted", [None, "", "0 0", "a b c", "0 0 0", "0.6 0 0.5", "-0.1 0 0.5", "nan 0 1", "0 0 inf"]
)
def test_what_is_no_part_is_refused(wanted: str | None) -> None:
    with pytest.raises(QvlaError, match="within the photo"):
        box_of(wanted, (90, 60))


def test_the_part_is_a_photo_among_the_uploads(tmp_path: Path) -> None:
    file = photo.in_cache(write_photo(tmp_path / "field.png", seed=4, size=(90, 60)))
    settings = Settings(device="cpu")
    zoom = Zoom(settings, LineupLoader(lambda progress: None))
    part = zoom.part("0.5 0.5 0.5", file)
    assert part.orig_name == "part of field.png"
    whole = np.asarray(photo.open_photo(file, settings).image)
    cut = np.asarray(photo.open_photo(part, settings).image)
    np.testing.assert_array_equal(cut, whole[30:, 45:])
    with pytest.raises(QvlaError, match="Choose a photo first"):
        zoom.part("0 0 0.5", None)


def test_what_is_seen_is_the_photo_as_the_processor_resizes_it(tiny_checkpoint: Path) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    colours = np.random.default_rng(1).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    image = Image.fromarray(colours).resize((90, 60), Image.Resampling.NEAREST)
    seen = as_seen(processor, image)
    resized = image.resize((32, 32), Image.Resampling(processor.image_processor.resample))
    assert seen.size == (32, 32)
    difference = np.asarray(seen, int) - np.asarray(resized, int)
    assert np.abs(difference).max() <= 1
