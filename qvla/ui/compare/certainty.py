"""How sure a finished caption is, by what evaluations of the same contender set."""

from __future__ import annotations

import logging

from qvla.captioning.certainty import Thresholds
from qvla.evaluation.certainty import tells_apart, thresholds_of
from qvla.settings import Settings
from qvla.ui.compare.evaluations import evaluations_of
from qvla.ui.panes import Pane, PaneState

log = logging.getLogger(__name__)


class Certainties:
    """The words for panes' captions, from the evaluation of most photos that ships or is the
    owner's of a pane's base and adapter, the newest of equals. Others have no word, nor have those
    whose captions it did not tell apart.
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
        for record, name in evaluations_of(pane, self._settings, log.warning):
            if (thresholds := thresholds_of(record, name)) is not None:
                return thresholds if tells_apart(record, name) else None
        return None
