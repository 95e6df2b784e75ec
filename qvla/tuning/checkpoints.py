"""The checkpoints of an unfinished run: which are the run's own, and which of them are whole.

A power cut leaves files that are empty, cut off or missing, also in a folder whose last file was
written. Nothing here imports torch: whoever only wants to know where a run would go on from, as the
queue of jobs does, is told at once.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from qvla.files import parse_json

# The last file that the Trainer writes into a checkpoint: without it, it is half-written.
LAST_WRITTEN = "trainer_state.json"
# What a run could go on without, though not as if nothing had happened; the last is one a process.
REST = {
    "optimizer.pt": "its optimiser begins anew",
    "scheduler.pt": "its learning rate begins anew",
    "rng_state*.pth": "its random numbers begin anew",
}
_NAME = re.compile(r"checkpoint-(\d{1,12})")


@dataclass(frozen=True)
class Found:
    """What a run can go on from, None when nothing is left, and what has to be said of that."""

    checkpoint: Path | None
    said: tuple[str, ...] = ()


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders that the run wrote, the newest first: no links, no copies by other names."""
    own = [
        path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name) and _is_own(path)
    ]
    return sorted(own, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(checkpoint.name.rpartition("-")[2])


def find(folder: Path) -> Found:
    """The newest whole checkpoint; without one, the newest that at least has all weights."""
    said: list[str] = []
    second: tuple[Path, list[str]] | None = None
    for checkpoint in checkpoints_in(folder):
        if damage := damage_of(checkpoint):
            said.append(f"{checkpoint.name} is damaged ({damage}).")
        elif not (missing := missing_from(checkpoint)):
            return Found(checkpoint, _told(said, checkpoint))
        else:
            said.append(f"{checkpoint.name} has no {' and no '.join(missing)}.")
            second = second or (checkpoint, missing)
    if second is None:
        return Found(None, tuple(said))
    checkpoint, missing = second
    lost = ", ".join(REST[name] for name in missing)
    return Found(checkpoint, (*_told(said, checkpoint), f"Without that, {lost}."))


def damage_of(checkpoint: Path) -> str | None:
    """What keeps a run from going on from here; None when nothing does."""
    try:
        for name in (LAST_WRITTEN, "adapter_config.json", "config.json"):
            if name == LAST_WRITTEN or (checkpoint / name).exists():
                parse_json((checkpoint / name).read_bytes())
        weights = {path.name for path in checkpoint.glob("*.safetensors")}
        for index in checkpoint.glob("*.safetensors.index.json"):
            name = index.name
            weights |= set(parse_json(index.read_bytes())["weight_map"].values())
        if not weights:
            return "it has no weights"
        for name in sorted(weights):
            with safe_open(checkpoint / name, framework="numpy"):  # reads no more than its header
                pass
        for path in (path for pattern in REST for path in checkpoint.glob(pattern)):
            name = path.name
            zipfile.ZipFile(path).close()  # what torch.save writes
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{name} cannot be read"
    except (SafetensorError, zipfile.BadZipFile):
        return f"{name} is cut off"
    return None


def missing_from(checkpoint: Path) -> list[str]:
    """The files that a whole checkpoint has besides its weights, and this one has not."""
    return [name for name in REST if not any(checkpoint.glob(name))]


def remove(folder: Path, keep: int = 0) -> None:
    """Deletes the run's own checkpoints but for the newest, and nothing else."""
    for checkpoint in checkpoints_in(folder)[keep:]:
        shutil.rmtree(checkpoint)


def _is_own(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _told(said: list[str], checkpoint: Path) -> tuple[str, ...]:
    return (*said, f"The run goes on from {checkpoint.name}.") if said else ()
