"""The one kind of error whose text may be shown to a user as it stands."""

from __future__ import annotations


class QvlaError(Exception):
    """A fault that the user can mend: one sentence that says what is wrong and what to do."""
