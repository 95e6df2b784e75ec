"""What a pane's adapter is: who put it there, how long it was trained and how well it does."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from qvla.captioning.loader import LineupLoader
from qvla.files import parse_json
from qvla.jobs import publishing
from qvla.records import store as records
from qvla.records.store import Record
from qvla.settings import Settings
from qvla.ui.compare.evaluations import evaluations_of
from qvla.ui.origins import job_records
from qvla.ui.pane import Pane
from qvla.words import counted

log = logging.getLogger(__name__)

RUN = "run.json"  # what a fine-tune says of itself, beside its adapter
FRESH_SECONDS = 20  # that a badge is kept: panes are rendered at every token
FEWEST = 100  # photos of an evaluation whose score is told
SCORE = "standard/{name}/all/CIDEr"


class Badges:
    """The badge of a pane, such as `live: job 3f2a, 400 steps, CIDEr 1.20`; "" without an adapter.

    Steps are from the adapter's folder; the score is from the evaluation of most photos of this
    adapter that ships or is the owner's, or of the job that the adapter was published from.
    """

    def __init__(self, settings: Settings, loader: LineupLoader) -> None:
        self._settings, self._loader = settings, loader
        self._kept: dict[tuple[str, ...], tuple[float, str]] = {}

    def __call__(self, pane: Pane) -> str:
        if not pane.adapter:
            return ""
        key = (pane.name, pane.model, pane.adapter, pane.precision)
        until, badge = self._kept.get(key, (0.0, ""))
        if time.monotonic() >= until:
            badge = self._badge(pane)
            self._kept[key] = (time.monotonic() + FRESH_SECONDS, badge)
        return badge

    def _badge(self, pane: Pane) -> str:
        live = publishing.published(self._settings).get(pane.name)
        there = [*self._loader.contenders, *self._loader.tasks]
        own = next((one.adapter for one in there if one.name == pane.name), None)
        steps = _steps(live.folder if live else own)
        score = self._score(pane) if live is None else self._score_of_job(live.job)
        parts = [f"live: {live.name}"] if live else []
        parts += [] if steps is None else [counted(steps, "step")]
        parts += [] if score is None else [f"CIDEr {score:.2f}"]
        return ", ".join(parts)

    def _score(self, pane: Pane) -> float | None:
        for record, name in evaluations_of(pane, self._settings, log.debug):
            if (score := _score_in(record, name)) is not None:
                return score
        return None

    def _score_of_job(self, job: str) -> float | None:
        found = records.find("evaluation", [job_records(self._settings, job)], log.debug)
        for kept in reversed(found):
            for name in kept.record.variants:
                if name != "base" and (score := _score_in(kept.record, name)) is not None:
                    return score
        return None


def _score_in(record: Record, name: str) -> float | None:
    return record.numbers.get(SCORE.format(name=name)) if record.items >= FEWEST else None


def _steps(folder: str | None) -> int | None:
    """Of a local folder that a fine-tune wrote; None of any other, and of a hub id."""
    if folder is None:
        return None
    try:
        told: Any = parse_json((Path(folder) / RUN).read_bytes())
    except (OSError, ValueError):
        return None
    steps = told.get("steps") if isinstance(told, dict) else None
    return steps if isinstance(steps, int) and steps > 0 else None
