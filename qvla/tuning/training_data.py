"""What a fine-tune run is fed: photos, the caption drawn for each, and the batch they make.

Everything random depends only on (seed, epoch, photo), never on a worker or on what was drawn
before, so that a resumed run and one with other workers see the same batches.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler
from transformers import ProcessorMixin

from qvla.captioning.prompts import IGNORED, encode_images, encode_text, prompt_of, task_of
from qvla.data.imagery import ImageError, open_image
from qvla.data.risc import Example
from qvla.data.special_tokens import special_tokens
from qvla.methods.recipe import TrainingError
from qvla.models.families import family_of_processor
from qvla.progress import progress

log = logging.getLogger(__name__)

CROP_MARGIN = 1.25  # photos to be cropped are kept this much larger than the model's input
SMALLEST_CROP = 0.7  # of a side, about half the area
MOST_LEFT_OUT = 0.1  # of the rows; with more the data is not what its owner thinks
NAMED = 3  # photos that a message names
NO_CAPTION, MISSING, UNREADABLE = "no caption", "no such photo", "a photo that cannot be opened"


@dataclass(frozen=True)
class Sifted:
    """The examples that can be trained on, and how many of the others there are for what reason."""

    kept: list[Example]
    left_out: dict[str, int]


def sift(examples: Sequence[Example], kind: str = "") -> Sifted:
    """Opens every photo and keeps the examples with a caption and a photo; tells of all others.

    Raises TrainingError when more than MOST_LEFT_OUT of them are left out, none is left, or a
    caption holds a special token, which would end the run at the step that comes to it. `kind` is
    said before "rows".
    """
    _check_captions(examples)
    faults = _photo_faults({item.image for item in examples if item.references})
    reasons: dict[str, list[str]] = {}
    kept = []
    for item in examples:
        reason = faults.get(item.image) if item.references else NO_CAPTION
        if reason is None:
            kept.append(item)
        else:
            reasons.setdefault(reason, []).append(item.name)
    if not kept:
        raise TrainingError(
            f"No {kind}row is usable: each needs a caption and a photo that can be opened"
            + (f" ({_counted(reasons)})." if reasons else ".")
        )
    lost = len(examples) - len(kept)
    share = f"{lost:,} of {len(examples):,} {kind}rows"
    if lost > MOST_LEFT_OUT * len(examples):
        raise TrainingError(
            f"{share} cannot be used ({_counted(reasons)}), more than the "
            f"{100 * MOST_LEFT_OUT:.0f} % that a run leaves out: mend them or take them out; "
            "`qvla data check` lists them all."
        )
    if lost:
        log.warning("%s are left out (%s).", share, _counted(reasons))
    return Sifted(kept, {reason: len(names) for reason, names in reasons.items()})


class Photos:
    """The distinct photos as RGB uint8 squares of `side` pixels, in memory when they fit.

    Decoding a JPEG anew in each epoch costs a small model more than training on it does.
    """

    def __init__(
        self, paths: Sequence[Path], processor: ProcessorMixin, *, side: int, cache_bytes: int
    ) -> None:
        self._paths = list(paths)
        self._processor = processor
        self._side = side
        self._resizing = family_of_processor(processor).resizing(side)
        self._cache: np.ndarray | None = None
        if len(self._paths) * side * side * 3 <= cache_bytes:
            cache = np.empty((len(self._paths), side, side, 3), np.uint8)
            for row, path in enumerate(self._paths):
                cache[row] = self._read(path)
            self._cache = cache

    @property
    def in_memory(self) -> bool:
        return self._cache is not None

    def __getitem__(self, row: int) -> np.ndarray:
        """(side, side, 3) uint8."""
        return self._read(self._paths[row]) if self._cache is None else self._cache[row]

    def _read(self, path: Path) -> np.ndarray:
        # The checkpoint's own resizing, without its scaling to floats: encode_images leaves a photo
        # of the right size as it is, so pixel values equal those of the photo itself.
        resized = self._processor.image_processor(
            open_photo(path),
            **self._resizing,
            do_rescale=False,
            do_normalize=False,
            return_tensors="np",
        )["pixel_values"][0]
        return np.ascontiguousarray(resized.transpose(1, 2, 0)).astype(np.uint8, casting="safe")


@dataclass(frozen=True)
class Captioned:
    """One photo as it is shown, with the caption drawn for it, or the answer to its question."""

    photo: int
    pixels: np.ndarray | None  # (H, W, 3) uint8; None of a photo whose features are kept
    caption: str
    question: str


class CaptionedPhotos(Dataset[Captioned]):
    """One item a photo and epoch. The key is (epoch, index), or an index for epoch 0.

    Where the features of photos are kept (`kept_features`), items are without pixels, and
    `pixel_values` has those of a photo that was not looked at yet.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        processor: ProcessorMixin,
        *,
        seed: int,
        augment: str = "none",
        cache_bytes: int = 1 << 30,
        features_kept: bool = False,
    ) -> None:
        self.examples = list(examples)
        self.seed = seed
        self.augment = augment
        self.epoch = 0
        side = family_of_processor(processor).processor_side(processor)
        assert side is not None  # a backbone's processor makes squares: see `read_processor`
        if augment == "crops":
            side = round(side * CROP_MARGIN)
        paths = {example.image: None for example in self.examples}
        rows = {path: row for row, path in enumerate(paths)}
        self._rows = [rows[example.image] for example in self.examples]
        self._processor = processor
        self._features_kept = features_kept
        # Photos that are looked at once are read once.
        kept = 0 if features_kept else cache_bytes
        self._photos = Photos(list(paths), processor, side=side, cache_bytes=kept)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer; `EpochSampler` puts the epoch into the keys it yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def distinct(self) -> int:
        """How many photos there are, whatever number of rows is about each."""
        return max(self._rows, default=-1) + 1

    def pixel_values(self, photos: Sequence[int]) -> torch.Tensor:
        """Photos by their numbers, (D, 3, S, S), as they are without augmentation."""
        return _pixel_values(self._processor, [self._photos[photo] for photo in photos])

    def rows_by_photo(self) -> list[list[int]]:
        """The rows of each photo, photos in the order in which they first come."""
        rows: dict[int, list[int]] = {}
        for index, photo in enumerate(self._rows):
            rows.setdefault(photo, []).append(index)
        return list(rows.values())

    def caption(self, index: int, epoch: int) -> str:
        """The caption drawn for a photo in an epoch."""
        return self._random(epoch, "caption", index).choice(self.examples[index].references)

    def __getitem__(self, key: int | tuple[int, int]) -> Captioned:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        photo = self._rows[index]
        pixels = None
        if not self._features_kept:
            # Seeded by the photo, not the row: a photo twice in a step then is the same view, and
            # goes through the vision tower once.
            drawn = self._random(epoch, "view", photo)
            pixels = view(self._photos[photo], self.augment, drawn)
        return Captioned(photo, pixels, self.caption(index, epoch), self.examples[index].question)

    def _random(self, epoch: int, what: str, index: int) -> random.Random:
        return random.Random(f"{self.seed}/{epoch}/{what}/{index}")


class EpochSampler(Sampler[tuple[int, int]]):
    """Every row once, in an order drawn for the epoch that the data set was told.

    All that is asked about a photo comes together, so that it goes through the vision tower once.
    """

    def __init__(self, dataset: CaptionedPhotos) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self._dataset.epoch
        order = self._dataset.rows_by_photo()
        random.Random(f"{self._dataset.seed}/{epoch}/order").shuffle(order)
        return ((epoch, index) for rows in order for index in rows)


class Collator:
    """Items to one batch: encode_text's tensors, `pixel_values` (D, 3, S, S), `photo_rows` (B,),
    and `tasks`, the name of each row's.

    D counts the distinct photos; `photo_rows` says which of them each row of the text is about.
    Where their features are kept, their numbers `photos` (D,) stand in the place of pixels.
    A row with a question has that as its prompt, any other the prefix.
    """

    def __init__(self, processor: ProcessorMixin, prefix: str) -> None:
        self._processor = processor
        self._prefix = prefix

    def __call__(self, items: Sequence[Captioned]) -> dict[str, Any]:
        captions = [item.caption for item in items]
        prompts = [prompt_of(item.question, self._prefix) for item in items]
        batch = dict(encode_text(self._processor, prompts, captions))
        unknown = self._processor.tokenizer.unk_token_id
        if unknown is not None:  # a word vocabulary would otherwise learn to say <unk>
            batch["labels"] = batch["labels"].masked_fill(batch["labels"] == unknown, IGNORED)
        return batch | shown(self._processor, items) | {"tasks": list(map(task_of, prompts))}


def shown(processor: ProcessorMixin, items: Sequence[Captioned]) -> dict[str, torch.Tensor]:
    """What a batch has of its photos, see `Collator`."""
    distinct = {item.photo: item.pixels for item in items}
    rows = {photo: row for row, photo in enumerate(distinct)}
    batch = {"photo_rows": torch.tensor([rows[item.photo] for item in items])}
    pixels = [each for each in distinct.values() if each is not None]
    if pixels:
        return batch | {"pixel_values": _pixel_values(processor, pixels)}
    return batch | {"photos": torch.tensor(list(distinct))}


def _pixel_values(processor: ProcessorMixin, photos: Sequence[np.ndarray]) -> torch.Tensor:
    images = [Image.fromarray(np.ascontiguousarray(pixels)) for pixels in photos]
    return encode_images(processor, images)


def view(pixels: np.ndarray, augment: str, rng: random.Random) -> np.ndarray:
    """One of the eight flips and quarter turns, which a photo seen from above allows; "crops" first
    cuts out a square of 70 to 100 % of the side.
    """
    if augment == "none":
        return pixels
    if augment == "crops":
        height, width = pixels.shape[:2]
        side = round(rng.uniform(SMALLEST_CROP, 1.0) * min(height, width))
        top, left = rng.randint(0, height - side), rng.randint(0, width - side)
        pixels = pixels[top : top + side, left : left + side]
    pixels = np.rot90(pixels, rng.randrange(4))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def open_photo(path: Path) -> Image.Image:
    """An RGB photo; TrainingError names the file when it cannot be decoded."""
    try:
        return open_image(path)
    except ImageError as error:
        raise TrainingError(
            f"{path} cannot be read as an image; mend the file or take out its row."
        ) from error


def _check_captions(examples: Sequence[Example]) -> None:
    found = {item.name: tokens for item in examples if (tokens := special_tokens(item.references))}
    if found:
        some = ", ".join(f"{name}: {' '.join(found[name])}" for name in list(found)[:NAMED])
        raise TrainingError(
            f"Captions of {len(found):,} photos hold special tokens of the model ({some}"
            f"{', …' if len(found) > NAMED else ''}): take them out; `qvla data check` lists all."
        )


def _photo_faults(paths: Collection[Path]) -> dict[Path, str]:
    """Why photos cannot be opened, by their paths; every one is decoded."""

    def fault(path: Path) -> str | None:
        try:
            if not path.is_file():
                return MISSING
            open_image(path)
        except (ImageError, OSError):
            return UNREADABLE
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(len(paths), "Opening photos") as bar:
        faults = {}
        for path, reason in zip(paths, pool.map(fault, paths), strict=True):
            if reason is not None:
                faults[path] = reason
            bar.step()
    return faults


def _counted(reasons: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(
        f"{reason}: {len(names):,}, {', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''}"
        for reason, names in reasons.items()
    )
