"""The examples that ship with the app can be read, shown and lawfully published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.data.risc import Example

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "examples"
EXAMPLES = read_examples(FOLDER)


def test_there_are_enough() -> None:
    assert len(EXAMPLES) >= 8
    assert len({example.image for example in EXAMPLES}) == len(EXAMPLES)
    assert {example.split for example in EXAMPLES} == {"test"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_a_photo_opens_and_has_five_references(example: Example) -> None:
    image = open_image(example.image)
    assert all(224 <= side <= 512 for side in image.size)
    assert np.asarray(image).std() > 10  # a picture, not a blank
    assert len(set(example.references)) == 5
    for reference in example.references:
        assert reference == reference.lower() and reference.endswith(" .")
        assert 5 <= len(reference.split()) <= 30


def test_no_caption_serves_two_photos() -> None:
    captions = [reference for example in EXAMPLES for reference in example.references]
    assert len(set(captions)) == len(captions)


def test_every_photo_has_its_origin_stated() -> None:
    text = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    stated = {row.split("`")[1] for row in rows}
    assert stated == {example.name for example in EXAMPLES}
    assert all(cell.strip() for row in rows for cell in row.strip("|").split("|"))
    assert {example.source for example in EXAMPLES} <= set(text.replace("*", " ").split())


def test_nothing_lies_there_unlisted_and_it_stays_small() -> None:
    files = {path.name for path in (FOLDER / "resized").iterdir()}
    assert files == {example.name for example in EXAMPLES}
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 1.5e6


def test_photos_carry_no_data_about_places_or_people() -> None:
    for example in EXAMPLES:
        with Image.open(example.image) as image:
            assert not image.getexif()
