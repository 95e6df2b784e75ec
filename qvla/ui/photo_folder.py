"""Photos of a folder in the RISC layout: read once, then filtered by source and split, in pages."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qvla.data.examples import read_examples
from qvla.data.risc import DatasetError, Example
from qvla.errors import QvlaError

PAGE_SIZE = 24
ALL = "all"
HELD_OUT = ("val", "test")
TRAINING = "train"


class PhotoNotInFolderError(QvlaError):
    """A photo was asked for that the folder's captions.csv does not name."""


@dataclass(frozen=True)
class Page:
    """One page of the photos that match; `number` counts from 1 and is always one that exists."""

    examples: tuple[Example, ...]
    number: int
    pages: int
    matching: int


class PhotoFolder:
    """A folder in the RISC layout. It is read at first use, so that starting does not wait for it.

    Only photos named in captions.csv can be had: names are looked up, never joined to a path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._examples: dict[str, Example] | None = None

    def examples(self) -> dict[str, Example]:
        """All photos by file name; raises DatasetError when the folder cannot be read."""
        with self._lock:
            if self._examples is None:
                self._examples = {example.name: example for example in read_examples(self.folder)}
            return self._examples

    def find(self, name: str | None) -> Example:
        """The photo of this file name; raises QvlaError when there is none."""
        example = self.examples().get(name or "")
        if example is None:
            raise PhotoNotInFolderError(
                f"There is no photo {name!r} in this folder: choose another."
            )
        return example

    def sources(self) -> list[str]:
        return _distinct(example.source for example in self.examples().values())

    def splits(self) -> list[str]:
        return _distinct(example.split for example in self.examples().values())

    def first_split(self) -> str:
        """The split to show first: photos that no model was trained on, where there are any."""
        splits = self.splits()
        return next((name for name in HELD_OUT if name in splits), ALL)

    def page(self, source: str = ALL, split: str = ALL, number: int = 1) -> Page:
        matching = [
            example
            for example in self.examples().values()
            if source in (ALL, example.source) and split in (ALL, example.split)
        ]
        pages = max(1, math.ceil(len(matching) / PAGE_SIZE))
        number = min(max(1, int(number)), pages)
        shown = matching[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
        return Page(tuple(shown), number, pages, len(matching))


def examples_or_none(folder: PhotoFolder) -> Sequence[Example]:
    """The folder's photos, or none when it cannot be read: the page then does without examples."""
    try:
        return list(folder.examples().values())
    except DatasetError:
        return ()


def _distinct(names: object) -> list[str]:
    return sorted({name for name in names if name})
