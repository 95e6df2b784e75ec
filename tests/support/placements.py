"""Where each method is tried: at its defaults, and in fewer places."""

from __future__ import annotations

from typing import Any

from qvla.methods.method import Method

# A value for each field of a recipe that says how large or where.
SMALL: dict[str, Any] = {
    "rank": 4,
    "reduction_factor": 8,
    "layers": [0, 2],
    "lora_targets": ["q_proj", "up_proj"],
    "sites": ["mlp"],
    "train_norms": True,
}


def placements_of(method: Method) -> list[dict[str, Any]]:
    """Settings of that method: none, and all that make it smaller."""
    small = {name: value for name, value in SMALL.items() if name in method.fields}
    return [{}, small] if small else [{}]
