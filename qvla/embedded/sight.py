"""Teaches the vision tower to see, before it is given any language.

Per token it imitates EfficientNet-Lite0's feature map (see `views`), and from the mean of its
tokens it names the scene and the things that the captions mention. The eight flips and quarter
turns apply to photo and target grid alike, since a photo from above has no up.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from qvla.embedded.budget import BudgetRun
from qvla.embedded.sources import TrainingPhoto
from qvla.embedded.views import GRID, TARGET_WIDTH, Views
from qvla.models.families.word_tokens import split_words

log = logging.getLogger(__name__)

BATCH = 128
WORD_CLASSES = 400
SCENE_WEIGHT, WORD_WEIGHT = 0.3, 10.0  # against 1 for the imitation of a token of unit variance


class SightHeads(nn.Module):
    """What the tower is asked while it learns; thrown away afterwards."""

    def __init__(self, width: int, scenes: int, words: int) -> None:
        super().__init__()
        self.token = nn.Linear(width, TARGET_WIDTH)
        self.norm = nn.LayerNorm(width)
        self.scene = nn.Linear(width, scenes)
        self.word = nn.Linear(width, words)

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pooled = self.norm(states.mean(1))  # (B, 49, D) -> (B, D)
        return self.token(states), self.scene(pooled), self.word(pooled)


def train_sight(
    photos: list[TrainingPhoto],
    views: Views,
    config: PreTrainedConfig,
    *,
    minutes: float,
    checkpoint: Path,
    on_progress: Callable[[PreTrainedModel, SightHeads, list[str]], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Trains for the given minutes; returns the tower's float32 weights by name."""
    torch.manual_seed(0)
    scenes = sorted({photo.scene for photo in photos})
    scene_of = torch.tensor([scenes.index(photo.scene) for photo in photos])
    words_of = word_targets(photos)
    tower = AutoModel.from_config(config, attn_implementation="eager").bfloat16()
    heads = SightHeads(config.hidden_size, len(scenes), words_of.shape[1]).bfloat16()
    run = BudgetRun(
        nn.ModuleDict({"tower": tower, "heads": heads}),
        minutes=minutes,
        learning_rate=1e-3,
        weight_decay=0.05,
        checkpoint=checkpoint,
    )
    compiled = torch.compile(tower)
    sums = np.zeros(3)
    last_eval = run.used
    while not run.finished:
        rng = np.random.default_rng(run.step_number)  # so that a resumed run draws the same
        rows = rng.integers(len(photos), size=BATCH)
        which = rng.integers(views.pixels.shape[1], size=BATCH)
        pixels = views.pixels[rows, which]
        targets = views.targets[rows, which].reshape(BATCH, GRID, GRID, TARGET_WIDTH)
        pixels, targets = turn(pixels, targets, rng)
        states = compiled(normalise(pixels, rng)).last_hidden_state
        seen, scene, word = heads(states)
        wanted = torch.from_numpy(targets.astype(np.float32)).flatten(1, 2)
        imitation = F.mse_loss(seen.float(), wanted)
        scene_loss = F.cross_entropy(scene.float(), scene_of[rows], label_smoothing=0.1)
        word_loss = F.binary_cross_entropy_with_logits(word.float(), words_of[rows])
        run.step(imitation + SCENE_WEIGHT * scene_loss + WORD_WEIGHT * word_loss)
        sums += imitation.item(), scene_loss.item(), word_loss.item()
        if run.step_number % 100 == 0:
            rate = run.step_number * BATCH / run.used
            log.info(
                "sight step %d, %.1f min, %.0f photos/s: imitation %.4f, scene %.4f, words %.4f",
                run.step_number,
                run.used / 60,
                rate,
                *(sums / 100),
            )
            sums[:] = 0
        if on_progress and (run.used - last_eval > 300 or run.finished):
            last_eval = run.used
            on_progress(tower, heads, scenes)
    prefix = "tower."
    return {
        name.removeprefix(prefix): weight
        for name, weight in run.master_weights().items()
        if name.startswith(prefix)
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


def turn(
    pixels: np.ndarray, grids: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One of the eight flips and quarter turns a row, the same for photo (H, W, C) and grid."""
    turned = [np.empty_like(pixels), np.empty_like(grids)]
    for row in range(len(pixels)):
        quarters, mirrored = int(rng.integers(4)), rng.integers(2)
        for source, result in zip((pixels, grids), turned, strict=True):
            image = source[row, :, ::-1] if mirrored else source[row]
            result[row] = np.rot90(image, quarters)
    return turned[0], turned[1]


def normalise(pixels: np.ndarray, rng: np.random.Generator | None = None) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) bf16 in -1 … 1; with an rng, in another light."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1
    if rng is not None:
        shape = (len(values), 1, 1, 1)
        gain = torch.from_numpy(rng.uniform(0.75, 1.25, shape)).float()
        offset = torch.from_numpy(rng.uniform(-0.2, 0.2, shape)).float()
        tint = torch.from_numpy(rng.uniform(0.9, 1.1, (len(values), 1, 1, 3))).float()
        grey = torch.from_numpy(rng.uniform(0, 0.4, shape)).float()
        values = torch.lerp(values, values.mean(-1, keepdim=True), grey)
        values = (values * gain * tint + offset).clamp(-1, 1)
    return values.permute(0, 3, 1, 2).bfloat16()
