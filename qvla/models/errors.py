"""What goes wrong with a model, told in one sentence."""

from __future__ import annotations

from qvla.errors import QvlaError


class BackboneError(QvlaError):
    """A model cannot be loaded: one sentence that says why and what to do."""
