"""Where a fine-tune computes at Hugging Face, and how far it has come, in its folder here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from qvla.files import parse_json, write_json

FILE = "remote.json"


@dataclass
class Remote:
    """`repository` has the run's files; `job` is the Hugging Face Job of the newest attempt, in
    `namespace`, which may take `seconds`; `over` says that it is known to have ended. `lines` of
    its log are in the log here, and `step` is that of the newest checkpoint in the repository.
    """

    repository: str
    namespace: str
    job: str = ""
    seconds: int = 0
    over: bool = True
    lines: int = 0
    step: int | None = None

    @property
    def goes_on(self) -> bool:
        """Whether a job was started of which no end is known here."""
        return bool(self.job) and not self.over

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))


def read(folder: Path) -> Remote | None:
    """What is known of the run at Hugging Face; None of one that never was there."""
    try:
        return Remote(**parse_json((folder / FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
