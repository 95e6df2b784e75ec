"""The times by which jobs are watched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """All in seconds."""

    heartbeat: float = 2.0  # between signs of life in the store; requests to cancel come back
    grace: float = 60.0  # for a training process to finish its step and write a checkpoint
    stale: float = 120.0  # without a sign of life, a worker on another machine is given up
    recovery: float = 10.0  # between a worker's looks at what others left undone
    idle: float = 0.3  # between looks into an empty queue
