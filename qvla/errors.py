"""The one kind of error whose text may be shown to a user as it stands."""

from __future__ import annotations


class QvlaError(Exception):
    """A fault that the user can mend: one sentence that says what is wrong and what to do."""


# Exit codes of the command line.
FAILED_PHOTOS = 1
UNUSABLE = 2
PROGRAM_FAULT = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # what shells report after Ctrl-C
