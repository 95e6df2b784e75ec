"""Photos that a visitor brought together, and their captions as far as they have come.

Every few photos are a turn of their own in the page's queue, so that who compares one photo waits
for a few and never for all. Nothing runs between turns: who leaves asks for no further one.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradio.data_classes import FileData
from pydantic import ValidationError

from qvla.captioning.certainty import unfamiliar_notes
from qvla.data.imagery import Photo
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.answered import answered
from qvla.ui.compare import photo
from qvla.ui.compare.comparison import Certain, lineup_panes
from qvla.ui.panes import Pane, PaneState
from qvla.ui.pictures import HISTORY_PIXELS, data_uri

if TYPE_CHECKING:
    from qvla.captioning.generation import Caption
    from qvla.captioning.lineup import Lineup

A_TURN = 4  # photos
LOST = "The upload did not get through: choose this photo again."
WITH_OTHERS = "Made with other photos at once. Press Compare to have it timed."


class LotError(QvlaError):
    """These photos cannot be taken; the message says why."""


@dataclass(frozen=True)
class Row:
    """One photo: waiting until it has captions, or a `problem` in a sentence.

    `thumbnail` is a data URI. `file` is None where the photo did not get here.
    """

    photo: str
    file: FileData | None = None
    problem: str = ""
    thumbnail: str = ""
    notes: tuple[str, ...] = ()
    panes: tuple[Pane, ...] = ()

    @property
    def waiting(self) -> bool:
        return not self.problem and not self.panes


@dataclass
class Lot:
    """The photos in order; `seats` names who was chosen to answer, `options` are of `Decoding`."""

    rows: list[Row]
    seats: tuple[str, ...]
    options: dict[str, Any]
    left_out: int = 0  # photos beyond as many as may come at once
    paused: bool = False

    @property
    def waiting(self) -> int:
        return sum(row.waiting for row in self.rows)

    @property
    def failed(self) -> int:
        return sum(bool(row.problem) for row in self.rows)

    def step(
        self, lineup: Lineup, names: Sequence[str], settings: Settings, certain: Certain
    ) -> None:
        """Captions the next few photos, by all of `names` who are there."""
        opened: dict[int, Photo] = {}
        for place, row in enumerate(self.rows):
            if len(opened) == A_TURN:
                break
            if row.waiting:
                try:
                    opened[place] = photo.open_photo(row.file, settings)
                except QvlaError as error:
                    self.rows[place] = replace(row, problem=str(error))
        if not opened:
            return
        try:
            said = _captions(lineup, names, list(opened.values()), self.options)
        except QvlaError as error:
            for place in opened:
                self.rows[place] = replace(self.rows[place], problem=str(error))
            return
        for (place, one), panes in zip(opened.items(), said, strict=True):
            self.rows[place] = replace(
                self.rows[place],
                thumbnail=data_uri(one.image, HISTORY_PIXELS),
                notes=(*one.notes, *unfamiliar_notes(panes)),
                panes=tuple(replace(pane, certainty=certain(pane)) for pane in panes),
            )


@dataclass
class Desk:
    """What one visitor has: photos and the folder of their downloads, which goes with the visit."""

    lot: Lot | None = None
    folder: Path | None = field(default=None)

    def clear(self) -> None:
        """Nothing is left of the photos that were here."""
        self.lot = None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None


def new_lot(sent: Any, settings: Settings, seats: Sequence[str], options: dict[str, Any]) -> Lot:
    """The photos as the browser sent them; see `assets/ui/several.js`. Raises LotError."""
    parts = sent if isinstance(sent, dict) else {}
    photos, left_out = parts.get("photos"), parts.get("left_out")
    if not isinstance(photos, list) or not photos:
        raise LotError("Choose photos first.")
    if len(photos) > settings.max_photos:
        raise LotError(f"At most {settings.max_photos} photos are taken at once: choose fewer.")
    rows = [_row(one, settings) for one in photos]
    return Lot(rows, tuple(seats), options, left_out if isinstance(left_out, int) else 0)


def _row(sent: Any, settings: Settings) -> Row:
    told = sent if isinstance(sent, dict) else {}
    name = str(told.get("orig_name") or "photo")[:255]
    try:
        return Row(name, FileData.model_validate(sent, context={"validate_meta": True}))
    except ValidationError:
        size = told.get("size")
        large = isinstance(size, int | float) and size > settings.max_upload_bytes
        return Row(name, problem=photo.too_large(settings) if large else LOST)


def _captions(
    lineup: Lineup, names: Sequence[str], opened: Sequence[Photo], options: dict[str, Any]
) -> list[tuple[Pane, ...]]:
    """Panes of each photo; of a contender who is not there, why."""
    from qvla.captioning.decoding import Decoding
    from qvla.captioning.engine import caption

    seated = lineup_panes(lineup, names, PaneState.DONE, WITH_OTHERS)
    able = [pane.name for pane in seated if pane.state is PaneState.DONE]
    if not able:
        raise QvlaError(seated[0].message if seated else "Nobody is there to answer.")
    images = [one.image for one in opened]
    answers = caption(lineup, images, able, Decoding(**options))
    for said in answers:
        for name, one in said.items():
            answered(name, PaneState.DONE.value, one.tokens, one.seconds)
    return [tuple(_said(pane, said.get(pane.name)) for pane in seated) for said in answers]


def _said(pane: Pane, caption: Caption | None) -> Pane:
    if caption is None:
        return pane
    return replace(
        pane,
        text=caption.text,
        tokens=caption.tokens,
        log_probability=caption.log_probability,
        unfamiliar=caption.unfamiliar,
    )
