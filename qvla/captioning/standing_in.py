"""The embedded model in the place of a gated one that the hub does not give to this machine.

A Space that was duplicated has no token yet, and its owner may not have accepted the licence. The
app then answers all the same, and everything it shows and records names the model that did.
"""

from __future__ import annotations

import logging

from qvla import hub
from qvla.settings import EMBEDDED_MODEL, Settings

log = logging.getLogger(__name__)


def with_stand_in(settings: Settings) -> Settings:
    """The settings as they are, or with the embedded model where theirs is gated and withheld.

    The model's adapters and bank go with it. A line-up of a file's own stays: it may name several
    models, and its panes say what each lacks.
    """
    if settings.lineup is not None or not hub.is_withheld(settings.model):
        return settings
    log.warning(
        "%s is gated and the hub does not serve it: the embedded model answers instead.",
        settings.model,
    )
    return settings.model_copy(
        update={
            "model": str(EMBEDDED_MODEL),
            "adapter": str(EMBEDDED_MODEL / "adapter"),
            "nf4_adapter": str(EMBEDDED_MODEL / "qvla"),
            "bank": None,
            "stands_in_for": settings.model,
        }
    )


def steps(settings: Settings) -> tuple[str, str] | None:
    """What its owner does to have the gated model; None where nothing stands in for one."""
    if settings.stands_in_for is None:
        return None
    return (
        f"Accept the licence at {hub.page_of(settings.stands_in_for)} with a Hugging Face account.",
        "Set HF_TOKEN to a token by which that account reads gated models (on a Space a secret, in "
        "its settings), and start the app again.",
    )
