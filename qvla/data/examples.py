"""Data by any name that it may be given, as examples: the one way to photos with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qvla.data.risc import TABLE, Example, example_of, image_folder, read_rows


def read_examples(
    source: str | Path,
    *,
    splits: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> list[Example]:
    """Examples in file order, optionally only of some splits and sources.

    Args:
        source: a folder in the RISC layout; or a parquet file, a folder of parquet files or the id
            of a data set on the hub (`owner/name`), which are written out in that layout once.

    Raises DatasetError when the data or a needed column is missing, or an image's name is unusable.
    Whether each image can be opened is not checked here; see `qvla.data.check`.
    """
    folder = risc_folder(source)
    images = image_folder(folder)
    examples = [example_of(row, images, folder / TABLE) for row in read_rows(folder)]
    return [
        example
        for example in examples
        if (splits is None or example.split in splits)
        and (sources is None or example.source in sources)
    ]


def risc_folder(source: str | Path) -> Path:
    """The folder in the RISC layout that `source` is or, once written out, becomes."""
    folder = Path(source).expanduser()
    if (folder / TABLE).is_file():
        return folder
    from qvla.data.hub_data import converted  # only now: it brings the hub's libraries with it

    return converted(source)
