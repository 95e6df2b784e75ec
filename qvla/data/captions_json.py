"""Captions in JSON as the field keeps them: COCO's, Karpathy's splits, and captions by name.

COCO: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.
Karpathy and Fei-Fei 2015, and RSICD: {"images": [{"filename", "split", "sentences": [{"raw"}]}]}.
By name: {"a.jpg": ["a caption", …], …}. A list of objects is read as a table (`layouts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvla.data.tables import DatasetError, Record

COCO, KARPATHY, BY_NAME = "COCO captions", "Karpathy's splits", "captions by image name"
# What the records of all three have.
IMAGE, CAPTIONS, SPLIT, SOURCE, KEY = "image", "captions", "split", "source", "key"


@dataclass(frozen=True)
class Captions:
    """What kind of file it is, and its photos as records with IMAGE, CAPTIONS and perhaps more."""

    kind: str
    records: list[Record]


def read_object(document: Mapping[str, Any], path: Path) -> Captions:
    """A JSON object of one of the three kinds. Raises DatasetError for any other."""
    images = document.get("images")
    if isinstance(images, list) and all(isinstance(image, dict) for image in images):
        if any("sentences" in image for image in images):
            return Captions(KARPATHY, list(_karpathy(images, document)))
        if isinstance(document.get("annotations"), list):
            return Captions(COCO, list(_coco(images, document["annotations"], path)))
    elif document and all(_are_texts(value) for value in document.values()):
        rows = [
            Record(number, {IMAGE: name, CAPTIONS: value})
            for number, (name, value) in enumerate(document.items(), start=1)
        ]
        return Captions(BY_NAME, rows)
    raise DatasetError(
        f"{path} holds no captions: it must be COCO's (images and annotations), Karpathy's (images "
        "with sentences), a list of objects with image and captions, or captions by image name."
    )


def _coco(images: list[dict[str, Any]], annotations: list[Any], path: Path) -> Iterator[Record]:
    captions: dict[Any, list[str]] = {}
    for annotation in annotations:
        if isinstance(annotation, dict) and isinstance(annotation.get("caption"), str):
            captions.setdefault(str(annotation.get("image_id")), []).append(annotation["caption"])
    if annotations and not captions:
        raise DatasetError(
            f"{path} is a COCO file without captions, as of boxes or outlines: name the one whose "
            "annotations have a caption."
        )
    for number, image in enumerate(images, start=1):
        key = str(image.get("id"))
        yield Record(
            number, {IMAGE: image.get("file_name"), CAPTIONS: captions.get(key, []), KEY: key}
        )


def _karpathy(images: list[dict[str, Any]], document: Mapping[str, Any]) -> Iterator[Record]:
    for number, image in enumerate(images, start=1):
        name, folder = image.get("filename"), image.get("filepath")
        if isinstance(folder, str) and folder and isinstance(name, str):
            name = f"{folder}/{name}"
        sentences = image.get("sentences") or []
        values = {IMAGE: name, CAPTIONS: sentences, SPLIT: image.get("split")}
        values[SOURCE] = document.get("dataset")
        key = image.get("cocoid", image.get("imgid"))
        yield Record(number, values if key is None else {**values, KEY: str(key)})


def _are_texts(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(text, str) for text in value)
    )
