"""Teaches the vision tower to see, before it is given any language.

Per token it imitates the feature maps of ImageNet networks at two depths (`teachers`), by their
cosine. From the mean of its tokens it names the scene, the things that the captions mention, and
the data set, since each describes the same things in its own way.

The eight flips and quarter turns apply to photo and target grid alike, since a photo from above has
no up. Until the last part of the training half of the tokens are left out, so that more photos are
seen in the same time (Li et al. 2023, arXiv 2212.00794), and the light changes much.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from qvla.embedded.budget import BudgetRun, computing_type
from qvla.embedded.sources import TrainingPhoto, shares_of
from qvla.embedded.teachers import DEPTHS, GRID
from qvla.embedded.views import Views, whole
from qvla.models.families.word_tokens import split_words

log = logging.getLogger(__name__)

BATCH = 128
LOG_EVERY = 50  # steps
LOOK_EVERY = 600  # seconds between looks at photos held out
WORD_CLASSES = 400
# Of the imitation of last and middle features (2 where there is no likeness), scenes, words and
# data sets.
WEIGHTS = (1.0, 0.5, 0.3, 10.0, 0.3)
TOKENS_KEPT = 25  # of 49
LAST_PART = 0.8  # of the budget is used when it begins
# How much of the changes of light the last part and the language have: data sets have their own.
LITTLE = 0.2
MIDDLE = 2 / 3  # of the tower's layers are behind it where it imitates the middle features

Told = tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]


class SightHeads(nn.Module):
    """What the tower is asked while it learns; thrown away afterwards."""

    def __init__(
        self, width: int, maps: dict[str, int], *, scenes: int, words: int, sources: int
    ) -> None:
        """`maps` has the width of what is imitated, by its name."""
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(width, size) for name, size in maps.items()})
        self.norm = nn.LayerNorm(width)
        self.scene = nn.Linear(width, scenes)
        self.word = nn.Linear(width, words)
        self.source = nn.Linear(width, sources)

    def forward(self, middle: torch.Tensor, last: torch.Tensor) -> Told:
        """Of the states (B, T, D) behind two layers: maps (B, T, W), scenes, words and sources."""
        pooled = self.norm(last.mean(1))  # (B, T, D) -> (B, D)
        maps = {
            name: head(last if name.endswith(" last") else middle)
            for name, head in self.maps.items()
        }
        return maps, self.scene(pooled), self.word(pooled), self.source(pooled)


class Pupil(nn.Module):
    """The tower with its heads: pixels (B, 3, 112, 112) to what the heads say, from all tokens or
    those `kept` (T,).
    """

    def __init__(self, tower: PreTrainedModel, heads: SightHeads) -> None:
        super().__init__()
        self.tower, self.heads = tower, heads
        self._middle = round(MIDDLE * tower.config.num_hidden_layers)

    def forward(self, pixels: torch.Tensor, kept: torch.Tensor | None = None) -> Told:
        tower: Any = self.tower
        states = tower.embeddings(pixels)
        if kept is not None:
            states = states[:, kept]
        behind = [states := layer(states, None) for layer in tower.encoder.layers]
        last = tower.post_layernorm(states)
        told: Told = self.heads(behind[self._middle - 1], last)
        return told


def train_sight(
    photos: list[TrainingPhoto],
    views: Views,
    tower: PreTrainedModel,
    *,
    minutes: float,
    checkpoint: Path,
    device: torch.device,
    held_out: Sequence[TrainingPhoto] = (),
) -> dict[str, torch.Tensor]:
    """Trains `tower` for the given minutes; returns its float32 weights by name.

    Photos without captions have a scene alone. How many scenes of photos `held_out` it names, by
    their source, is in the log.
    """
    torch.manual_seed(0)
    dtype = computing_type(device)
    scenes = sorted({photo.scene for photo in photos})
    scene_of = torch.tensor([scenes.index(photo.scene) for photo in photos], device=device)
    words_of = word_targets(photos).to(device)
    sources = sorted({photo.source for photo in photos})
    source_of = torch.tensor([sources.index(photo.source) for photo in photos], device=device)
    widths = {name: stored.shape[-1] for name, stored in views.maps.items()}
    heads = SightHeads(
        tower.config.hidden_size,
        widths,
        scenes=len(scenes),
        words=words_of.shape[1],
        sources=len(sources),
    )
    pupil = Pupil(tower, heads).to(device, dtype)
    run = BudgetRun(
        nn.ModuleDict({"pupil": pupil}),
        minutes=minutes,
        learning_rate=1e-3,
        weight_decay=0.05,
        checkpoint=checkpoint,
    )
    compiled, weights = torch.compile(pupil), torch.tensor(WEIGHTS, device=device)
    shares = shares_of(photos)
    sums, last_look = np.zeros(len(WEIGHTS)), run.used
    while not run.finished:
        rng = np.random.default_rng(run.step_number)  # so that a resumed run draws the same
        rows = rng.choice(len(photos), size=BATCH, p=shares)
        pixels, boxes = views.draw(rows, rng)
        grids = {name: views.seen(name, rows, boxes) for name in views.maps}
        pixels, *turned = turn(rng, pixels, *grids.values())
        kept, light = None, LITTLE
        if run.share < LAST_PART:
            kept = torch.from_numpy(rng.permutation(GRID * GRID)[:TOKENS_KEPT]).to(device)
            light = 1.0
        told = compiled(normalise(pixels, rng, light).to(device, dtype), kept)
        wanted = dict(zip(grids, turned, strict=True))
        losses = losses_of(told, wanted, scene_of[rows], words_of[rows], source_of[rows], kept=kept)
        run.step((losses * weights).sum())
        sums += losses.tolist()
        if run.step_number % LOG_EVERY == 0:
            log.info(
                "sight step %d, %.1f min, %.0f photos/s: last %.4f, middle %.4f, scene %.4f, "
                "words %.4f, source %.4f",
                run.step_number,
                run.used / 60,
                run.step_number * BATCH / run.used,
                *(sums / LOG_EVERY),
            )
            sums[:] = 0
        if held_out and (run.used - last_look > LOOK_EVERY or run.finished):
            last_look = run.used
            for source, share in named(pupil, scenes, sources, held_out).items():
                log.info(
                    "of the held out photos of %s it names %.4f of the scenes, %.4f of the sources",
                    source,
                    *share,
                )
    prefix = "pupil.tower."
    return {
        name.removeprefix(prefix): weight
        for name, weight in run.master_weights().items()
        if name.startswith(prefix)
    }


def losses_of(
    told: Told,
    wanted: Mapping[str, np.ndarray],
    scenes: torch.Tensor,
    words: torch.Tensor,
    sources: torch.Tensor,
    *,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """The five of WEIGHTS: of the maps (B, 7, 7, W) by twice one minus the mean cosine of a token
    (of those `kept`) with the teachers', of the scenes (B,) and sources (B,) by their number, of
    the words (B, V) by their share.

    A photo without words has no caption, and is left out where words are counted.
    """
    maps, scene, word, source = told
    off = {name: 2 * (1 - _likeness(seen, wanted[name], kept)) for name, seen in maps.items()}
    middle, last = (
        torch.stack([each for name, each in off.items() if name.endswith(depth)]).mean()
        for depth in DEPTHS
    )
    naming = F.cross_entropy(scene.float(), scenes, label_smoothing=0.1)
    captioned = words.any(-1, keepdim=True)
    mentions = F.binary_cross_entropy_with_logits(word.float(), words, reduction="none")
    mention = (mentions * captioned).sum() / (captioned.sum() * words.shape[-1]).clamp(min=1)
    placing = F.cross_entropy(source.float(), sources)
    return torch.stack([last, middle, naming, mention, placing])


def _likeness(seen: torch.Tensor, wanted: np.ndarray, kept: torch.Tensor | None) -> torch.Tensor:
    target = torch.from_numpy(wanted).flatten(1, 2).to(seen.device)
    if kept is not None:
        target = target[:, kept]
    return F.cosine_similarity(seen.float(), target, dim=-1).mean()


@torch.no_grad()
def named(
    pupil: Pupil,
    scenes: Sequence[str],
    sources: Sequence[str],
    photos: Sequence[TrainingPhoto],
) -> dict[str, tuple[float, float]]:
    """Of the photos of each source the share whose scene it names, and whose source."""
    like = next(pupil.parameters())
    right: dict[str, list[tuple[bool, bool]]] = {}
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        pixels = normalise(whole([photo.example for photo in batch]))
        _, scene, _, source = pupil(pixels.to(like.device, like.dtype))
        said = zip(batch, scene.argmax(-1).tolist(), source.argmax(-1).tolist(), strict=True)
        for photo, place, origin in said:
            both = scenes[place] == photo.scene, sources[origin] == photo.source
            right.setdefault(photo.source, []).append(both)
    return {
        source: (
            sum(scene for scene, _ in said) / len(said),
            sum(source for _, source in said) / len(said),
        )
        for source, said in right.items()
    }


def word_targets(photos: list[TrainingPhoto]) -> torch.Tensor:
    """(N, W) share of a photo's captions that hold each frequent word, but for the commonest."""
    said = [[set(split_words(caption)) for caption in photo.example.references] for photo in photos]
    counts = Counter(word for captions in said for word in set().union(*captions))
    common = [word for word, count in counts.most_common() if count < 0.5 * len(photos)]
    column = {word: index for index, word in enumerate(common[:WORD_CLASSES])}
    targets = torch.zeros(len(photos), len(column))
    for row, captions in enumerate(said):
        for caption in captions:
            for word in caption & column.keys():
                targets[row, column[word]] += 1 / len(captions)
    return targets


def turn(rng: np.random.Generator, *grids: np.ndarray) -> list[np.ndarray]:
    """One of the eight flips and quarter turns a row, the same for all grids (B, H, W, C)."""
    turned = [np.empty_like(grid) for grid in grids]
    for row in range(len(grids[0])):
        quarters, mirrored = int(rng.integers(4)), rng.integers(2)
        for source, result in zip(grids, turned, strict=True):
            image = source[row, :, ::-1] if mirrored else source[row]
            result[row] = np.rot90(image, quarters)
    return turned


def normalise(
    pixels: np.ndarray, rng: np.random.Generator | None = None, light: float = 1.0
) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in -1 … 1; with an rng in another light, 0 for none."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1
    if rng is not None:
        shape = (len(values), 1, 1, 1)

        def drawn(low: float, high: float, size: tuple[int, ...] = shape) -> torch.Tensor:
            return light * torch.from_numpy(rng.uniform(low, high, size)).float()

        gain, offset = 1 + drawn(-0.25, 0.25), drawn(-0.2, 0.2)
        tint, grey = 1 + drawn(-0.1, 0.1, (len(values), 1, 1, 3)), drawn(0, 0.4)
        values = torch.lerp(values, values.mean(-1, keepdim=True), grey)
        values = (values * gain * tint + offset).clamp(-1, 1)
    return values.permute(0, 3, 1, 2)
