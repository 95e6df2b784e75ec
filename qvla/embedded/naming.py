"""What a photo is of, in names: its scene, the things that its captions mention, its data set.

Data sets are named since each describes the same things in its own way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from qvla.embedded.sources import TrainingPhoto
from qvla.embedded.views import whole
from qvla.models.families.word_tokens import split_words

WORD_CLASSES = 400
BATCH = 128


class Named(NamedTuple):
    """Of photos: scenes (B, S), words (B, W) and data sets (B, D), as logits or probabilities."""

    scenes: torch.Tensor
    words: torch.Tensor
    sources: torch.Tensor

    def probabilities(self) -> Named:
        return Named(self.scenes.softmax(-1), self.words.sigmoid(), self.sources.softmax(-1))

    def at(self, rows: torch.Tensor) -> Named:
        return Named(*(part[rows] for part in self))


@dataclass(frozen=True)
class Names:
    scenes: list[str]
    words: list[str]  # the most frequent, but for the commonest
    sources: list[str]

    @classmethod
    def of(cls, photos: Sequence[TrainingPhoto]) -> Names:
        counts = Counter(word for photo in photos for word in set().union(*_said(photo)))
        common = [word for word, count in counts.most_common() if count < 0.5 * len(photos)]
        return cls(
            sorted({photo.scene for photo in photos}),
            common[:WORD_CLASSES],
            sorted({photo.source for photo in photos}),
        )

    def targets(self, photos: Sequence[TrainingPhoto], device: torch.device) -> Named:
        """Probabilities: of a word the share of a photo's captions that hold it."""
        scenes = torch.tensor([self.scenes.index(photo.scene) for photo in photos])
        sources = torch.tensor([self.sources.index(photo.source) for photo in photos])
        column = {word: index for index, word in enumerate(self.words)}
        words = torch.zeros(len(photos), len(self.words))
        for row, photo in enumerate(photos):
            captions = _said(photo)
            for caption in captions:
                for word in caption & column.keys():
                    words[row, column[word]] += 1 / len(captions)
        return Named(
            F.one_hot(scenes, len(self.scenes)).float().to(device),
            words.to(device),
            F.one_hot(sources, len(self.sources)).float().to(device),
        )


class NamingHeads(nn.Module):
    """Names photos from the mean of their tokens; thrown away after training."""

    def __init__(self, width: int, names: Names) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.scenes = nn.Linear(width, len(names.scenes))
        self.words = nn.Linear(width, len(names.words))
        self.sources = nn.Linear(width, len(names.sources))

    def forward(self, tokens: torch.Tensor) -> Named:
        """Logits of tokens (B, T, D)."""
        pooled = self.norm(tokens.mean(1))
        return Named(self.scenes(pooled), self.words(pooled), self.sources(pooled))


def naming_losses(told: Named, wanted: Named) -> dict[str, torch.Tensor]:
    """Cross-entropies of logits with probabilities, that of words per word.

    A photo of which no word is wanted has no caption, and is left out where words are counted.
    """
    captioned = wanted.words.any(-1, keepdim=True)
    mentions = F.binary_cross_entropy_with_logits(
        told.words.float(), wanted.words, reduction="none"
    )
    count = (captioned.sum() * mentions.shape[-1]).clamp(min=1)
    return {
        "scenes": F.cross_entropy(told.scenes.float(), wanted.scenes),
        "words": (mentions * captioned).sum() / count,
        "sources": F.cross_entropy(told.sources.float(), wanted.sources),
    }


@torch.no_grad()
def shares_named(
    name: Callable[[torch.Tensor], Named],
    names: Names,
    photos: Sequence[TrainingPhoto],
    size: int,
) -> dict[str, tuple[float, float]]:
    """Of the photos of each source the share whose scene is named, and whose source; `name` takes
    pixels (B, 3, size, size) on the CPU.
    """
    right: dict[str, list[tuple[bool, bool]]] = {}
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        told = name(whole([photo.example for photo in batch], size))
        scenes, sources = told.scenes.argmax(-1).tolist(), told.sources.argmax(-1).tolist()
        for photo, scene, source in zip(batch, scenes, sources, strict=True):
            both = names.scenes[scene] == photo.scene, names.sources[source] == photo.source
            right.setdefault(photo.source, []).append(both)
    return {
        source: (
            sum(scene for scene, _ in said) / len(said),
            sum(source for _, source in said) / len(said),
        )
        for source, said in right.items()
    }


def _said(photo: TrainingPhoto) -> list[set[str]]:
    return [set(split_words(caption)) for caption in photo.example.references]
