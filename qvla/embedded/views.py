"""Views of the training photos, drawn anew whenever they are wanted.

The whole photo, a crop of it, or, so that coarse photos are less foreign, the photo at a smaller
scale, mirrored at its edges. Each is turned in one of eight ways, since a photo from above has no
up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from qvla.data.risc import Example
from qvla.tuning.training_data import open_photo

VIEW_SIZE = 224  # pixels a side of a view, what a teacher is shown
STUDENT_SIZE = 112  # what the embedded model is shown
STORED_SIZE = 192  # what the training photos have
LEVELS = 3  # the photos, and at a half and a quarter of their size, for what is drawn small
WHOLE, COARSE = 0.3, 0.2  # shares of the views; the others are crops
SMALLEST, LARGEST = 0.25, 2.0  # scales against the whole photo
NARROWEST, WIDEST = 3 / 4, 4 / 3  # width by height of a crop
CHUNK = 256


class Views:
    """Holds photos (N, 3, S, S), uint8, on the device that views are drawn on."""

    def __init__(self, photos: torch.Tensor) -> None:
        self._levels = [photos]
        while len(self._levels) < LEVELS:
            self._levels.append(_halved(self._levels[-1]))

    @classmethod
    def of(cls, examples: Sequence[Example], device: torch.device) -> Views:
        with ThreadPoolExecutor() as threads:
            photos = threads.map(lambda one: resized(open_photo(one.image), STORED_SIZE), examples)
            return cls(torch.from_numpy(np.stack(list(photos))).permute(0, 3, 1, 2).to(device))

    @property
    def device(self) -> torch.device:
        return self._levels[0].device

    def draw(self, rows: torch.Tensor, *, coarse: float = COARSE) -> torch.Tensor:
        """A view of each row's photo, (B, 3, 224, 224) from -1 to 1, by torch's generator."""
        extents, centres = _places(len(rows), coarse, self.device)
        ways = _turns(self.device)[torch.randint(8, (len(rows),), device=self.device)]
        maps = torch.cat([extents[:, :, None] * ways, centres[:, :, None]], -1)  # (B, 2, 3)
        grids = F.affine_grid(maps, [len(rows), 3, VIEW_SIZE, VIEW_SIZE], align_corners=False)
        apart = extents.amax(-1) * (self._levels[0].shape[-1] / VIEW_SIZE)  # pixels a step
        depths = apart.log2().round().clamp(0, LEVELS - 1)
        views = torch.empty(len(rows), 3, VIEW_SIZE, VIEW_SIZE, device=self.device)
        for depth, photos in enumerate(self._levels):
            these = (depths == depth).nonzero().flatten()
            shown = photos[rows[these]].float() / 127.5 - 1
            drawn = F.grid_sample(shown, grids[these], "bicubic", "reflection", align_corners=False)
            views[these] = drawn.clamp(-1, 1)
        return views


def for_student(views: torch.Tensor) -> torch.Tensor:
    """Views at the size that the embedded model is shown, (B, 3, 112, 112)."""
    small = F.interpolate(views, STUDENT_SIZE, mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(-1, 1)


def in_other_light(pixels: torch.Tensor, amount: float) -> torch.Tensor:
    """Pixels (B, 3, H, W) from -1 to 1 with another gain, offset, tint and greyness each; an
    amount of 0 changes nothing, 1 much.
    """

    def drawn(low: float, high: float, channels: int = 1) -> torch.Tensor:
        share = torch.rand(len(pixels), channels, 1, 1, device=pixels.device)
        return amount * (low + (high - low) * share)

    gain, offset = 1 + drawn(-0.25, 0.25), drawn(-0.2, 0.2)
    tint, grey = 1 + drawn(-0.1, 0.1, 3), drawn(0, 0.4)
    greyer = torch.lerp(pixels, pixels.mean(1, keepdim=True), grey)
    return (greyer * gain * tint + offset).clamp(-1, 1)


def whole(examples: Sequence[Example], size: int) -> torch.Tensor:
    """Photos as they are, (B, 3, size, size) from -1 to 1."""
    photos = np.stack([resized(open_photo(one.image), size) for one in examples])
    return torch.from_numpy(photos).permute(0, 3, 1, 2) / 127.5 - 1


def resized(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def _halved(photos: torch.Tensor) -> torch.Tensor:
    return torch.cat([F.avg_pool2d(part.float(), 2).round().byte() for part in photos.split(CHUNK)])


def _places(count: int, coarse: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Width and height of views, where the photo's are 1, and their centres, where the photo's
    edges are at -1 and 1; (B, 2) both.
    """
    kind, scale, ratio = torch.rand(3, count, device=device)
    corner = torch.rand(count, 2, device=device)
    is_coarse = (kind >= WHOLE) & (kind < WHOLE + coarse)
    is_crop = kind >= WHOLE + coarse
    # Logarithms are drawn evenly, so that halving and doubling are as probable.
    shape = (math.log(NARROWEST) + ratio * math.log(WIDEST / NARROWEST)) / 2
    sides = torch.stack([shape, -shape], -1).exp() * LARGEST ** -scale[:, None]
    extents = torch.ones(count, 2, device=device)
    extents = torch.where(is_crop[:, None], sides.clamp(max=1), extents)
    extents = torch.where(is_coarse[:, None], SMALLEST ** -scale[:, None], extents)
    room = torch.where(is_coarse[:, None], torch.ones_like(extents), 1 - extents)
    starts = corner * room
    return extents, 2 * starts + extents - 1


def _turns(device: torch.device) -> torch.Tensor:
    """The eight flips and quarter turns, (8, 2, 2)."""
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    quarters = [torch.linalg.matrix_power(quarter, times) for times in range(4)]
    mirror = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    return torch.stack([*quarters, *(each @ mirror for each in quarters)]).to(device)
