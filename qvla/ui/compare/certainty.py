"""How sure a finished caption is, by what evaluations of the same contender set."""

from __future__ import annotations

import logging

from qvla.captioning.certainty import Thresholds
from qvla.evaluation.certainty import thresholds_of
from qvla.records.store import Record
from qvla.settings import Settings
from qvla.ui.origins import find_records
from qvla.ui.panes import Pane, PaneState

log = logging.getLogger(__name__)


class Certainties:
    """The words for panes' captions, from the evaluation of most photos that ships or is the
    owner's of a pane's base and adapter, the newest of equals. Others have no word.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, pane: Pane) -> str:
        """Of a pane that is done; "" for any other."""
        if pane.state is not PaneState.DONE or pane.log_probability is None:
            return ""
        thresholds = self._thresholds(pane)
        return "" if thresholds is None else thresholds.word(pane.log_probability)

    def _thresholds(self, pane: Pane) -> Thresholds | None:
        # Read at each comparison: an evaluation may have come meanwhile, and there are few.
        newest = find_records(self._settings, log.warning, "evaluation")
        for found in sorted(newest, key=lambda one: one.record.items, reverse=True):
            if found.whose:
                continue  # what somebody measured is theirs
            name = name_in(found.record, pane)
            thresholds = None if name is None else thresholds_of(found.record, name)
            if thresholds is not None:
                return thresholds
        return None


def name_in(record: Record, pane: Pane) -> str | None:
    """Under which name a record holds a pane's base and adapter, in 4 bits or not."""
    contenders = record.protocol.get("contenders")
    for name, one in (contenders if isinstance(contenders, dict) else {}).items():
        quantised = one["precision"] == "nf4"
        if (one["base"], one["adapter"]) == (pane.model, pane.adapter) and quantised == (
            pane.precision == "nf4"
        ):
            return str(name)
    return None
