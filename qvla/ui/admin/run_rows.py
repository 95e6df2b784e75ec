"""The rows of jobs' runs, read as they grow, and how far a run has come."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvla.tuning.events import Row, by_step, time_of

if TYPE_CHECKING:
    from qvla.jobs.service import Jobs

KEPT = 64  # jobs whose rows stay in memory
WITH_STEP = ("start", "step", "evaluation", "checkpoint")
RECENT = 20  # points of the loss curve over which the speed is taken


class RunRows:
    """Reads each file of events once, and then only what was added to it."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[int, list[Row]]] = OrderedDict()

    def of(self, job_id: str) -> list[Row]:
        """All rows so far. Raises JobError for a name that is no job's."""
        with self._lock:
            position, rows = self._kept.get(job_id, (0, []))
            added, reached = self._jobs.events(job_id, position)
            if reached < position:  # the run began anew, in a new file
                rows = []
            rows = [*rows, *added] if added else rows
            self._kept[job_id] = (reached, rows)
            self._kept.move_to_end(job_id)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return rows


@dataclass(frozen=True)
class Reached:
    """How far a run has come; `seconds_left` is None while that cannot be told."""

    step: int = 0
    total: int = 0
    seconds_left: float | None = None

    @property
    def share(self) -> float:
        return min(self.step / self.total, 1.0) if self.total else 0.0


def reached(rows: list[Row]) -> Reached:
    """Told from the attempt under way, whose speed is that of its last steps."""
    starts = [place for place, row in enumerate(rows) if row["event"] == "start"]
    if not starts:
        return Reached()
    start, attempt = rows[starts[-1]], rows[starts[-1] :]
    steps = by_step(attempt, "step")
    newest = steps[-1] if steps else start
    # Not every step is told; a checkpoint or an evaluation may lie beyond the last one that was.
    step = max(row["step"] for row in attempt if row["event"] in WITH_STEP)
    total = start["total_steps"]
    if any(row["event"] == "end" and row.get("state") == "done" for row in attempt):
        step = total
    first = steps[-RECENT] if len(steps) >= RECENT else start
    if len(steps) > 1 and first is start:
        first = steps[0]  # what comes before it is the warming up
    done = newest["step"] - first["step"]
    seconds = seconds_between(first, newest)
    left = (total - step) * seconds / done if done > 0 and seconds > 0 else None
    return Reached(step, total, left)


def seconds_between(first: Row, second: Row) -> float:
    return (time_of(second) - time_of(first)).total_seconds()
