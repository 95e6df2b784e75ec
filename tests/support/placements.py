"""Where each method is tried: at its defaults, and in other and fewer places."""

from __future__ import annotations

from typing import Any

from qvla.methods.method import Method

# Values of the fields of a recipe that say how large and where.
TRIED: tuple[dict[str, Any], ...] = (
    {},
    {
        **{"rank": 4, "reduction_factor": 8, "virtual_tokens": 3, "block_size": 8},
        **{"layers": [0, 2], "lora_targets": ["q_proj", "up_proj"], "sites": ["mlp"]},
        **{"train_norms": True, "tasks": ["caption", "vqa"]},
    },
    {"towers": "both", "placement": "sparse", "vision_targets": ["q_proj", "fc1"]},
    {"towers": "vision", "placement": "top"},
)


def placements_of(method: Method) -> list[dict[str, Any]]:
    """Settings that the method has, of each way to try it; none twice."""
    found: list[dict[str, Any]] = []
    for tried in TRIED:
        own = {name: value for name, value in tried.items() if name in method.fields}
        if own not in found:
            found.append(own)
    return found
