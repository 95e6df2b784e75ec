"""What commands print, in whatever encoding the terminal or pipe has.

Names of files may hold bytes that are no text, and a console may lack a letter: JSON is ASCII
alone, and in words such a letter is written as an escape, so that no result is lost.
"""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel


def make_safe() -> None:
    """Has standard output and standard error escape what their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def as_json(value: BaseModel | dict[str, Any] | list[Any]) -> str:
    """A result as indented JSON in ASCII."""
    if hasattr(value, "model_dump_json"):  # whose own JSON is not ASCII
        value = json.loads(value.model_dump_json())
    return json.dumps(value, indent=2)
