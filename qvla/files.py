"""Files that are whole or not there: written under a temporary name, then renamed. And JSON that
others wrote, which is read or is a ValueError.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; no name is too long or too odd to ask."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def printable(name: str) -> str:
    """A file's name as text for people: bytes of it that are no UTF-8 become `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def parse_json(text: str | bytes) -> Any:
    """What the text says. Raises ValueError also for what is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def write_json(path: Path, value: Any) -> None:
    """A value as JSON."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """A file with that content."""
    temporary = _beside(path)
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Tensors as safetensors, readable for others, which the library's own files are not."""
    from safetensors.torch import save_file

    temporary = _beside(path)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    os.replace(temporary, path)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block ends, and is gone when it fails.

    With `replace` it takes the place of what bears the name; otherwise that is an OSError.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        new, old = Path(folder) / "new", Path(folder) / "old"
        new.mkdir()
        yield new
        if replace and path.exists():
            os.replace(path, old)
        os.replace(new, path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")
