"""Counts over a data set: photos, captions, their lengths and how many of them differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from qvla.data.examples import rows_of
from qvla.data.risc import CAPTION_COLUMNS, Example, groups
from qvla.data.tables import DatasetError

# A word has a letter or digit; hyphens and apostrophes may join its parts. Punctuation counts as
# none, although RISC sets it apart with spaces.
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class Stats:
    """Counts over some photos.

    Attributes:
        words_least, words_mean, words_median, words_most: of a caption; None without captions.
        vocabulary: different words, whatever their case.
        distinct: photos by how many of their captions differ, from 0 (no caption) to 5
            or, where a photo has more, to the most.
        identical: photos with two captions or more, all of them the same.
        incomplete: photos with fewer than five captions, those without any included.
    """

    photos: int
    captions: int
    words_least: int | None
    words_mean: float | None
    words_median: float | None
    words_most: int | None
    vocabulary: int
    distinct: dict[int, int]
    identical: int
    incomplete: int


@dataclass(frozen=True)
class Group:
    """The photos of one source and split."""

    source: str
    split: str
    stats: Stats


def count(examples: Sequence[Example]) -> Stats:
    """Counts over any photos; captions are compared letter by letter."""
    captions = [caption for item in examples for caption in item.references]
    words = [WORD.findall(caption.lower()) for caption in captions]
    lengths = [len(caption) for caption in words]
    distinct = Counter(len(set(item.references)) for item in examples)
    most = max(len(CAPTION_COLUMNS), *distinct, 0)
    return Stats(
        photos=len(examples),
        captions=len(captions),
        words_least=min(lengths, default=None),
        words_mean=fmean(lengths) if lengths else None,
        words_median=float(median(lengths)) if lengths else None,
        words_most=max(lengths, default=None),
        vocabulary=len({word for caption in words for word in caption}),
        distinct={number: distinct[number] for number in range(most + 1)},
        identical=sum(
            len(item.references) > 1 and len(set(item.references)) == 1 for item in examples
        ),
        incomplete=sum(len(item.references) < len(CAPTION_COLUMNS) for item in examples),
    )


def stats(source: str | Path) -> tuple[Stats, list[Group]]:
    """Counts over all rows and by source and split; see `read_examples` for `source`.

    Rows are counted as they stand, whether or not their image is there. Raises DatasetError.
    """
    examples = [
        Example(row.folders[0] / row.image, row.source, row.split, row.captions)
        for row in rows_of(source)
    ]
    if not examples:
        raise DatasetError(f"The data in {source} has no rows.")
    return count(examples), [
        Group(source, split, count(photos)) for (source, split), photos in groups(examples).items()
    ]
