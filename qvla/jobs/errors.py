"""The one kind of error of this package."""

from __future__ import annotations

from qvla.errors import QvlaError


class JobError(QvlaError):
    """What was asked of a job cannot be done; the message says why."""
