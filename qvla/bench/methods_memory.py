"""What several adapters on one base take, measured in a process of its own.

Run as `python -m qvla.bench.methods_memory SETTINGS FOLDERS`, the second a JSON list of adapters'
folders: prints one JSON object of bytes. The settings must name the device and precision. `loaded`
is what the process holds above its imports, `tensors` all parameters and buffers with every storage
counted once, `own` what is the adapters' alone.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qvla.settings import Settings, load_settings

if TYPE_CHECKING:
    from torch import nn


def measure(settings: Settings, folders: Sequence[str]) -> dict[str, int]:
    """Loads the base with all of the adapters here. Call it once in a process."""
    import bitsandbytes  # noqa: F401
    import torch

    from qvla.bench.methods_suite import lineup_of
    from qvla.methods.registry import make_known
    from qvla.models.families import families
    from qvla.records.measure import Meter

    families()  # imported before the meter is made, as what makes our methods known
    make_known()
    device = torch.device(settings.device)
    if device.type == "cuda":
        torch.zeros(1, device=device)  # starts CUDA itself
    meter = Meter(device)
    adapters = {f"adapter{number}": Path(folder) for number, folder in enumerate(folders)}
    lineup = lineup_of(settings, adapters)
    gc.collect()
    shared = lineup.shared("base")
    trees = [shared.loaded.model, *(view.model for view in shared.views)]
    return {
        "loaded": meter.held(trees[0]),
        "tensors": bytes_of(trees),
        "own": sum(shared.adapter_bytes.values()),
    }


def bytes_of(trees: Iterable[nn.Module]) -> int:
    """Bytes of all parameters and buffers of some module trees, each storage counted once."""
    sizes: dict[int, int] = {}
    for tree in trees:
        for tensor in (*tree.parameters(), *tree.buffers()):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = max(sizes.get(storage.data_ptr(), 0), tensor.nbytes)
    return sum(sizes.values())


if __name__ == "__main__":
    given, listed = sys.argv[1:]
    print(json.dumps(measure(load_settings(**json.loads(given)), json.loads(listed))))
