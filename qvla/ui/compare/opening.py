"""What a first visit opens with: an example, and the captions that are on record for it.

They come from the evaluation that ships with QVLA, so that something is there to read before any
weight is loaded, and they say so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from qvla.captioning.contenders import Contender
from qvla.data.risc import DatasetError, Example
from qvla.errors import QvlaError
from qvla.evaluation import prediction_log
from qvla.records import store as records
from qvla.records.store import Kept
from qvla.settings import Settings
from qvla.ui.panes import Pane, PaneState, idle_panes
from qvla.ui.photo_folder import PhotoFolder

log = logging.getLogger(__name__)


def opening(
    settings: Settings, contenders: Sequence[Contender], examples: PhotoFolder
) -> tuple[Example, tuple[Pane, ...]] | None:
    """The first example and the panes of its record; None where there is no record of it."""
    try:
        example = next(iter(examples.examples().values()), None)
    except DatasetError:
        return None
    if example is None:
        return None
    for kept in records.find("evaluation", [records.SHIPPED], log.debug):
        record = kept.record
        names = [one.name for one in contenders]
        if record.model == settings.model_name and set(names) <= set(record.variants):
            captions = {name: _caption(kept, name, example.name) for name in names}
            if all(captions.values()):
                day = f"{record.date:%d %B %Y}".lstrip("0")
                note = f"On record since {day}. Press Compare to ask the model now."
                return example, tuple(
                    replace(pane, state=PaneState.DONE, text=captions[pane.name], message=note)
                    for pane in idle_panes(contenders)
                )
    return None


def _caption(kept: Kept, name: str, photo: str) -> str:
    file = kept.file(f"predictions/{name}")
    if file is None:
        return ""
    try:
        rows = prediction_log.read(file)
        return next((row.caption for row in rows if row.image == photo), "")
    except QvlaError:
        return ""
