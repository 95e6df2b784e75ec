"""Reads captions of any system in the forms people have: one caption a photo, by image name.

JSON Lines of objects with image and caption; COCO results (a list of image_id and caption); a JSON
object of captions by name; CSV; and what `qvla caption --json` and `--out` write.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qvla.files import printable
from qvla.scoring.checks import ScoringError
from qvla.scoring.entries import Entry, Form, read_entries, reading

MAX_CAPTION = 5000  # characters
MAX_IMAGE = 255  # the longest file name that common systems allow
MAX_PATH = 1024  # of a name with folders

IMAGE, CAPTION = "image", "caption"
IMAGE_FIELDS = (IMAGE, "image_id", "file_name", "filename", "photo")
CAPTION_FIELDS = (CAPTION, "prediction", "text")

log = logging.getLogger(__name__)


def read_predictions(path: str | Path) -> dict[str, str]:
    """Captions by image name or id, in the file's order; other fields are passed over.

    Raises ScoringError when the file cannot be read, is too large, holds no caption or the same
    image twice, or an entry is none of an image and its caption; the message names the line.
    """
    path = Path(path)
    captions: dict[str, str] = {}
    places: dict[str, str] = {}
    with reading(path):
        kind, entries = read_entries(path, FORM)
        for entry in entries:
            try:
                row = _row(entry.values)
            except ValueError as error:
                raise ScoringError(f"{path.name}, {entry.where}, {error}.") from error
            if row is None:
                continue
            image, caption = row
            if image in captions:
                raise ScoringError(
                    f"{path.name}, {entry.where}, captions {image} again, after {places[image]}; "
                    "give one caption an image."
                )
            captions[image], places[image] = caption, entry.where
    if not captions:
        raise ScoringError(
            f"{path.name} holds no captions; give one JSON object a line, with image and caption."
        )
    if kind is not None:
        log.info("%s is read as %s: %s captions.", path.name, kind, f"{len(captions):,}")
    return captions


# ---- what kind of file it is ---------------------------------------------------------------------


def _of_document(document: Any, path: Path) -> tuple[str, Iterator[Entry]]:
    if isinstance(document, dict) and isinstance(document.get("annotations"), list):
        names = {
            image.get("id"): image.get("file_name")
            for image in document.get("images") or ()
            if isinstance(image, dict) and isinstance(image.get("id"), (int, str))
        }
        return "COCO captions", _numbered(document["annotations"], names)
    if isinstance(document, dict):
        by_name = [{IMAGE: name, CAPTION: caption} for name, caption in document.items()]
        return "captions by image name", _numbered(by_name, {})
    if not isinstance(document, list):
        raise ScoringError(f"{path.name} is not a JSON object with image and caption.")
    first = document[0] if document else None
    is_coco = isinstance(first, dict) and "image_id" in first
    return "COCO results" if is_coco else "a list in JSON", _numbered(document, {})


def _numbered(entries: list[Any], names: Mapping[Any, Any]) -> Iterator[Entry]:
    """The entries of a list, ids replaced by the names of the file's own images."""
    for number, values in enumerate(entries, start=1):
        if isinstance(values, dict) and isinstance(values.get("image_id"), (int, str)):
            name = names.get(values["image_id"])
            values = {**values, IMAGE: name} if isinstance(name, str) else values
        yield Entry(f"entry {number}", values)


FORM = Form((IMAGE_FIELDS, CAPTION_FIELDS), "image and caption", _of_document)


# ---- one entry -----------------------------------------------------------------------------------


def _row(values: Any) -> tuple[str, str] | None:
    """Image and caption; None of a photo that could not be captioned.

    Raises ValueError with what the entry does wrong, as a clause.
    """
    if not isinstance(values, dict):
        raise ValueError("is not a JSON object with image and caption")
    if isinstance(values.get("error"), str) and "photo" in values:
        return None
    image = next((values[name] for name in IMAGE_FIELDS if name in values), None)
    if isinstance(values.get("image_id"), int) and image is values["image_id"]:
        image = str(image)
    caption: Any = next((values[name] for name in CAPTION_FIELDS if name in values), None)
    if caption is None and isinstance(values.get("variants"), dict):
        caption = _only_variant(values["variants"])
    most = MAX_PATH if isinstance(image, str) and "/" in image else MAX_IMAGE
    for name, text, length in ((IMAGE, image, most), (CAPTION, caption, MAX_CAPTION)):
        if not isinstance(text, str):
            raise ValueError(f"has no text in the field {name}")
        if len(text) > length:
            raise ValueError(f"has more than {length:,} characters in the field {name}")
        try:
            shown = printable(text) if name == IMAGE else text
            shown.encode()
        except UnicodeEncodeError:
            raise ValueError(f"has half a character in the field {name}") from None
    if not image:
        raise ValueError("has an empty field image")
    return printable(image), caption


def _only_variant(variants: Mapping[str, Any]) -> Any:
    """The caption in an entry of `qvla caption`."""
    if len(variants) != 1:
        raise ValueError(
            f"holds captions of {', '.join(variants) or 'nobody'}: make it with one of them, as "
            "`qvla caption --variant NAME` does"
        )
    (answer,) = variants.values()
    return answer.get("caption") if isinstance(answer, dict) else None
