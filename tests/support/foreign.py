"""Parquet files of photos, as data sets on the hub are made of, and a look at what was written."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 16


def photo(colour: str | tuple[int, int, int], kind: str = "JPEG") -> bytes:
    """The file of a picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), colour).save(file, kind)
    return file.getvalue()


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Values by column; `image` holds pictures as the datasets library stores them."""
    import datasets

    known = {
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
        "scene": datasets.ClassLabel(names=["farm", "coast"]),
    }
    features = datasets.Features(
        {name: known.get(name, datasets.Value("string")) for name in columns}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(dict(columns), features=features).to_parquet(path)
    return path


def rsicd(folder: Path) -> Path:
    """Two splits as `arampacha/rsicd` has them, with its columns; returns the folder."""
    for split, colours in {"train": ("red", "lime"), "valid": ("blue",)}.items():
        write_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet",
            {
                "filename": [f"rsicd_images/{colour}.jpg" for colour in colours],
                "captions": [[f"a {colour} field .", f"{colour}  all over"] for colour in colours],
                "image": [{"bytes": photo(colour), "path": None} for colour in colours],
            },
        )
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    """The rows of the folder's captions.csv, read without our own reader."""
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
