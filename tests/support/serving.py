"""The app, served from a thread of this process, with tiny models of random weights."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvla.captioning.loader import LineupLoader
from qvla.settings import Settings
from qvla.ui.app import open_app
from tests.support.adapted import adapted, load
from tests.support.servers import usual_port


def add_adapters(checkpoint: Path) -> Path:
    """Writes `adapter/` and `qvla/` into a checkpoint's folder, where the settings find them."""
    for number, name in enumerate(("adapter", "qvla"), start=1):
        adapted(load(checkpoint), seed=100 * number).save_pretrained(checkpoint / name)
    return checkpoint


def write_photo(path: Path, seed: int = 0, size: tuple[int, int] = (96, 64)) -> Path:
    """A photo of coloured fields: different for each seed."""
    fields = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(fields).resize(size, Image.Resampling.NEAREST).save(path)
    return path


def write_risc_folder(folder: Path, rows: Sequence[tuple[str, str, str, Sequence[str]]]) -> Path:
    """A folder in the RISC layout; rows are source, split, image name and captions."""
    (folder / "resized").mkdir(parents=True)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "split", "image", *(f"caption_{n}" for n in range(1, 6))])
        for seed, (source, split, name, captions) in enumerate(rows):
            writer.writerow([source, split, name, *captions, *[""] * (5 - len(captions))])
            write_photo(folder / "resized" / name, seed=seed)
    return folder


@contextmanager
def served(settings: Settings, loader: LineupLoader | None = None) -> Iterator[str]:
    """The app's address; its weights load in the background unless a loader is given."""
    own = loader or LineupLoader.of(settings).start()
    with pytest.MonkeyPatch.context() as patch:
        if settings.port is None:
            patch.setattr(settings, "port", usual_port())
        app, address = open_app(settings, own)
    try:
        yield address
    finally:
        app.close(verbose=False)


@contextmanager
def never_asking_for_weights() -> Iterator[None]:
    """For an app whose weights never come, which a page would ask for all the while it is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qvla.ui.compare.weights.POLL_SECONDS", 3600)
        yield
