"""The kinds of error of this package."""

from __future__ import annotations

from qvla.errors import QvlaError


class JobError(QvlaError):
    """What was asked of a job cannot be done; the message says why."""


class StoreError(JobError):
    """The store cannot be read or written now."""


class FullDiskError(StoreError):
    """The store cannot be written because there is no room."""


class DamagedStoreError(StoreError):
    """The file of the store, or of the queue, is damaged: `qvla.jobs.repair` sets it aside."""
