"""Whether a Space keeps what is made on it: its own disk is emptied at every restart.

What stays is an attached volume, a storage bucket as a rule, which is mounted where its owner says
(https://huggingface.co/docs/hub/spaces-storage).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import psutil

from qvla.settings import Settings

PLACE = Path("/data")  # where volumes are usually mounted
FLEETING = {"overlay", "tmpfs", "ramfs", "rootfs"}
LOST = "What is made here ({}) is lost when this Space restarts: "
ALL, THE_REST = (
    "jobs, adapters, records, votes",
    "jobs, votes, and all that QVLA_STORE does not keep",
)
ATTACH = f"attach a storage bucket at {PLACE} in its settings, and set QVLA_HOME to {PLACE}/qvla."
USE_IT = f"a volume is attached at {PLACE}, so set QVLA_HOME to {PLACE}/qvla."


class Mount(Protocol):
    """What is used of psutil's partitions."""

    mountpoint: str
    fstype: str


def what_is_lost(settings: Settings, mounts: Sequence[Mount] | None = None) -> str | None:
    """That nothing in `home` outlasts a restart of the Space, and what to do; None off a Space and
    where it lies on an attached volume. `mounts` are the machine's own unless they are given.
    """
    if not os.environ.get("SPACE_ID"):
        return None
    found = psutil.disk_partitions(all=True) if mounts is None else mounts
    if _is_kept(settings.home, found):
        return None
    lost = LOST.format(THE_REST if settings.store else ALL)
    return lost + (USE_IT if _is_kept(PLACE, found) else ATTACH)


def _is_kept(place: Path, mounts: Sequence[Mount]) -> bool:
    """Whether the innermost mount that holds it is another than the container's own."""
    place = place.absolute()
    place = next(one for one in (place, *place.parents) if one.exists()).resolve() / "x"
    around = [one for one in mounts if Path(one.mountpoint) in place.parents]
    own = max(around, key=lambda one: len(Path(one.mountpoint).parts), default=None)
    return own is not None and own.mountpoint != "/" and own.fstype not in FLEETING
