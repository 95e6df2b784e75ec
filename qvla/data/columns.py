"""Which column of a foreign data set holds what; presets for the data sets that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from qvla.data.risc import CAPTION_COLUMNS
from qvla.data.tables import DatasetError

if TYPE_CHECKING:
    from datasets import Features


@dataclass(frozen=True)
class Columns:
    """Names of columns; what is left out is looked for under RISC's own names.

    Attributes:
        image: the picture.
        captions: columns of texts, or of lists of texts.
        source: where a photo comes from. Without such a column it is `source_name`, which is the
            data set's own name unless it is given.
        split: without such a column, the split that the data set files the row under.
        name: the file name. Without it the name that is kept with the picture, or a number.
    """

    image: str | None = None
    captions: tuple[str, ...] = ()
    source: str | None = None
    split: str | None = None
    name: str | None = None
    source_name: str | None = None

    def over(self, other: Columns) -> Columns:
        """These columns, and the other's where these say nothing."""
        said = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(other, **{name: value for name, value in said.items() if value})


@dataclass(frozen=True)
class Preset:
    """What is known of a data set beforehand."""

    columns: Columns
    terms: str


# What the presets rely on. arampacha/rsicd: the features in its dataset_infos.json (filename,
# captions: a list of strings, image; splits train, valid, test), and that it has no card.
# caglarmert/full_riscm: public code that trains on it reads `image` and caption_1 … caption_5 from
# its only split, train. Whether it has RISC's source and split columns is not documented, so they
# are used where they are found.
PRESETS = {
    "caglarmert/full_riscm": Preset(
        Columns(image="image", captions=CAPTION_COLUMNS),
        "RISC gathers three data sets: imagery and captions of RSICD and NWPU-Captions are for "
        "research use, and the imagery of UCM-Captions (UC Merced) is in the public domain (USGS).",
    ),
    "arampacha/rsicd": Preset(
        Columns(image="image", captions=("captions",), name="filename", source_name="RSICD"),
        "The imagery and captions of RSICD are for research use.",
    ),
}


def find_columns(wanted: Columns, features: Features, data: str) -> Columns:
    """`wanted` with what it leaves out found among a data set's columns.

    Raises DatasetError when a column is not there or does not hold what it should.
    """
    named = [wanted.image, *wanted.captions, wanted.source, wanted.split, wanted.name]
    for name in filter(None, named):
        _check_there(name, features, data)
    captions = wanted.captions or _usual_captions(features)
    image = wanted.image or "image"
    found = replace(
        wanted,
        image=image,
        captions=captions,
        source=wanted.source or ("source" if "source" in features else None),
        split=wanted.split or ("split" if "split" in features else None),
    )
    _check_there(image, features, data, "--image-column")
    if not captions:
        raise DatasetError(
            f"{data} has no column of captions under a usual name ({_listed(features)}): name it "
            "with --captions-column."
        )
    for name in captions:
        if not _holds_text(features[name]):
            raise DatasetError(
                f"The column {name} of {data} holds no captions, neither one nor a "
                "list: name another with --captions-column."
            )
    return found


def texts(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The captions of a row, without empty ones, each on one line."""
    found: list[str] = []
    for name in columns:
        value = row[name]
        found += [value] if isinstance(value, str) else value or []
    return [one_line(text) for text in found if text and text.strip()]


def one_line(text: str) -> str:
    return " ".join(text.splitlines()).strip()


def label(row: Mapping[str, object], column: str, features: Features) -> str:
    """A cell as text; a class label by its name."""
    value = row[column]
    if value is not None and hasattr(features[column], "int2str"):
        value = features[column].int2str(value)
    return "" if value is None else str(value).strip()


def _usual_captions(features: Features) -> tuple[str, ...]:
    numbered = tuple(name for name in CAPTION_COLUMNS if name in features)
    return numbered or tuple(name for name in ("captions", "caption") if name in features)[:1]


def _check_there(name: str, features: Features, data: str, option: str = "") -> None:
    if name not in features:
        with_option = f" with {option}" if option else ""
        raise DatasetError(
            f"{data} has no column {name} ({_listed(features)}): name the right one{with_option}."
        )


def _listed(features: Features) -> str:
    return f"it has {', '.join(features)}"


def _holds_text(feature: object) -> bool:
    """Whether a feature is of strings, or of lists of them."""
    item = getattr(feature, "feature", feature)
    return getattr(item, "dtype", None) in ("string", "large_string", "string_view")
