"""The memory of one variant, loaded and captioning, measured in a process of its own.

Run as `python -m qvla.bench.memory_variant VARIANT SETTINGS PHOTO NEW_TOKENS CAPTIONS`: prints one
JSON object. CAPTIONS is yes or no. The settings must name the device and precision, not leave them
to be chosen.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from qvla.settings import Settings, load_settings

if TYPE_CHECKING:
    from torch import nn

INTERVAL = 0.002  # seconds between looks at the memory while loading


@dataclass
class VariantMemory:
    """Bytes above those of the process with its libraries imported (`qvla.records.measure`)."""

    weights: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    loading_peak: int = 0
    loaded: int = 0
    captioning_peak: int | None = None
    adapter: dict[str, Any] = field(default_factory=dict)  # its settings, as `plan` names them


def measure(
    variant: str, settings: Settings, photo: str, new_tokens: int, captions: bool
) -> VariantMemory:
    """Loads the variant alone and captions the photo. Call it once in a process."""
    import bitsandbytes  # noqa: F401
    import torch

    from qvla.bench import arrangements
    from qvla.data.imagery import open_image
    from qvla.models.families import families
    from qvla.records.measure import Meter, sampled

    families()  # imports the models' code, which is not to be counted
    image = open_image(photo, max_pixels=settings.max_pixels)
    device = torch.device(settings.device)
    if device.type == "cuda":
        torch.zeros(1, device=device)  # starts CUDA itself
    meter = Meter(device)
    meter.reset()
    found = VariantMemory()
    with sampled(meter.held, INTERVAL) as samples:
        lineup = arrangements.load_lineup(settings, [variant])
    shared = lineup.shared(variant)
    model = shared.model_of(variant)
    gc.collect()
    found.loaded = meter.held(model)
    # The kernel's peak would count the pages of the files that are read.
    in_files = found.loaded - meter.held()
    found.loading_peak = max(*samples.values, found.loaded - in_files) + in_files
    if device.type == "cuda":
        found.loading_peak = meter.peak()
    found.adapter = _adapter(model)
    found.weights = lineup.variant(variant).weight_bytes
    found.parts, found.dtypes = _census(model)
    if captions:
        decoding = arrangements.fixed_length(shared, new_tokens)
        arrangements.caption_in_turn({variant: shared}, [image], decoding)
        meter.reset()
        arrangements.caption_in_turn({variant: shared}, [image], decoding)
        found.captioning_peak = meter.peak(model)
    return found


def _adapter(model: object) -> dict[str, Any]:
    from qvla.methods.bottleneck import BottleneckConfig

    names = ("reduction_factor", "layers", "sites", "train_norms")
    for config in getattr(model, "peft_config", {}).values():
        if isinstance(config, BottleneckConfig):
            return {name: getattr(config, name) for name in names}
        return {"rank": config.r, "lora_targets": sorted(config.target_modules)}
    return {}


def _census(model: nn.Module) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by part, and by dtype, the state of quantised layers being its own."""
    import torch

    from qvla.models.footprint import census

    counts = census(model)
    dtypes = {
        name: elements * getattr(torch, name).itemsize for name, elements in counts.elements.items()
    }
    if counts.quantisation_bytes:
        dtypes["quantisation_state"] = counts.quantisation_bytes
    return dict(counts.part_bytes), dtypes


if __name__ == "__main__":
    name, given, photo_path, length, captions_too = sys.argv[1:]
    chosen = load_settings(**json.loads(given))
    answer = measure(name, chosen, photo_path, int(length), captions_too == "yes")
    print(json.dumps(asdict(answer)))
