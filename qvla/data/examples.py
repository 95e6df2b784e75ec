"""Data by any name that it may be given, as rows and as examples: the one way to photos with their
captions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from qvla.data.layouts import is_parquet, is_risc, local_rows
from qvla.data.risc import Example, Row, example_of, read_rows
from qvla.data.splits import split_name
from qvla.data.tables import DatasetError
from qvla.data.template import Template
from qvla.files import is_there


def read_examples(
    source: str | Path,
    *,
    splits: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    template: str | None = None,
) -> list[Example]:
    """Examples in file order, optionally only of some splits and sources.

    Raises DatasetError when the data or a needed column is missing, an image's name is unusable, or
    a split that is asked for, by its own name or a synonym, has no row. Whether each image can be
    opened is not checked here; see `qvla.data.check`. For what `source` may be see `rows_of`.
    """
    examples = [example_of(row) for row in rows_of(source, template)]
    chosen = [item for item in examples if sources is None or item.source in sources]
    if splits is None:
        return chosen
    if examples and not any(item.references for item in examples):
        raise DatasetError(
            f"No photo of {Path(source).name} has a caption by people, to learn from or to score "
            "against: name data that has, or write them into a captions.csv beside the photos."
        )
    wanted = [split_name(split) for split in splits]
    for split in wanted:
        if not any(item.split == split for item in chosen):
            raise DatasetError(_no_row(split, sources, chosen or examples, bool(chosen)))
    return [item for item in chosen if item.split in wanted]


def rows_of(source: str | Path, template: str | None = None) -> list[Row]:
    """All rows of the data, usable or not.

    Args:
        source: a folder in the RISC layout or any that `layouts` knows, or the file with its
            captions; or a parquet file, a folder of parquet files or the id of a data set on the
            hub (`owner/name`), which are written out in the RISC layout once.
        template: makes the captions of a table's other columns (`qvla.data.template`).

    Raises DatasetError when there is no such data or it cannot be read.
    """
    path = Path(source).expanduser()
    made_by = None if template is None else Template.parse(template)
    if is_read_in_place(path) and (made_by is None or not is_risc(path)):
        return local_rows(path, made_by)
    if made_by is not None:
        raise DatasetError(
            f"{source} has captions of its own or lies elsewhere, so no caption template can be "
            "used: leave it out, or name an image folder or a table."
        )
    from qvla.data.hub_data import converted  # only now: it brings the hub's libraries with it

    return list(read_rows(converted(source)))


def is_read_in_place(source: str | Path) -> bool:
    """Whether data is here and need be neither fetched nor written out to be read."""
    path = Path(source).expanduser()
    return is_there(path) and not is_parquet(path)


def _no_row(
    split: str, sources: Sequence[str] | None, there: Iterable[Example], of_sources: bool
) -> str:
    of = f" of {', '.join(sources)}" if sources else ""
    kind = "splits" if of_sources or not sources else "sources"
    names = {item.split if kind == "splits" else item.source for item in there}
    return (
        f"The data has no row{of} in the split {split!r}: its {kind} are "
        f"{', '.join(sorted(filter(None, names))) or 'not named'}."
    )
