"""The ways of getting captions that the suites compare with each other.

The product's own way is the line-up. The others are what it is measured against: three models that
share nothing, and the report's loop, which keeps nothing from one token to the next.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

from qvla.captioning import options
from qvla.captioning.bases import precision_of
from qvla.captioning.contenders import VARIANTS, contenders_of, with_weights
from qvla.captioning.decoding import Decoding
from qvla.captioning.desk import answer_now
from qvla.captioning.generation import Caption, Generation
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import CAPTION_PREFIX, decode, encode_images, encode_text
from qvla.captioning.shared_backbone import SharedBackbone
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.errors import QvlaError
from qvla.models.backbone import Precision
from qvla.models.families import family_of
from qvla.settings import Settings

log = logging.getLogger(__name__)


class BenchError(QvlaError):
    """The suite cannot run as asked; the message says why."""


@dataclass(frozen=True)
class FixedLength(Decoding):
    """Greedy decoding that never ends early: `max_new_tokens` tokens, so that all do equal work."""

    ends: tuple[int, ...] = ()

    def processors(self) -> LogitsProcessorList:
        processors = super().processors()
        processors.append(SuppressTokensLogitsProcessor(list(self.ends)))
        return processors


def fixed_length(shared: SharedBackbone, new_tokens: int) -> FixedLength:
    """Captions of exactly `new_tokens` tokens from this checkpoint."""
    ends = end_tokens(shared)
    return FixedLength(max_new_tokens=new_tokens, ends=tuple(sorted(ends)))


def end_tokens(shared: SharedBackbone) -> set[int]:
    """Every token that ends a caption of this checkpoint."""
    model = shared.loaded.model
    return family_of(model.config).end_tokens(model, shared.loaded.processor)


def load_lineup(settings: Settings, variants: Sequence[str] = VARIANTS) -> Lineup:
    """The line-up with these variants; raises BenchError when one is not there."""
    lineup = options.load_lineup(settings, variants)
    for variant in map(lineup.variant, variants):
        if not variant.available:
            raise BenchError(
                f"This suite needs {', '.join(variants)}, and {variant.title} is not available: "
                f"{variant.reason}"
            )
    return lineup


def chosen_variants(named: str | None, settings: Settings) -> tuple[str, ...]:
    """The contenders of a comma-separated list, or all that have weights.

    In the order of the line-up, each once. Raises BenchError for a name that is none of theirs.
    """
    contenders = contenders_of(settings)
    if named is None:
        return tuple(with_weights(contenders))
    known = [one.name for one in contenders]
    return some_of(named, known, "--variant")


def some_of(named: str, known: Sequence[str], option: str) -> tuple[str, ...]:
    """The names of a comma-separated list, in the order of the known ones, each once.

    Raises BenchError for an unknown name, and for none; `option` is the flag that the sentence
    names.
    """
    names = {name.strip() for name in named.split(",")} - {""}
    unknown = sorted(names.difference(known))
    if unknown or not names:
        found = repr(unknown[0]) if unknown else "none"
        raise BenchError(f"{option} takes some of {', '.join(known)}, not {found}.")
    return tuple(name for name in known if name in names)


def made_explicit(settings: Settings) -> Settings:
    """The same settings with the device and precision that `auto` stands for."""
    device, precision = settings.device, str(settings.precision)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = precision_of(precision, device).value
    return settings.model_copy(update={"device": device, "precision": precision})


def load_separately(settings: Settings) -> dict[str, SharedBackbone]:
    """Base, adapter and QVLA as three models, each with all its weights to itself."""
    floating = Precision(settings.precision)
    parts = {
        "base": (floating, None),
        "adapter": (floating, settings.adapter),
        "qvla": (Precision.NF4, settings.nf4_adapter),
    }
    separate = {}
    for name, (precision, folder) in parts.items():
        separate[name] = SharedBackbone(
            *(settings.model, precision, settings.device),
            embeddings=settings.nf4_embeddings,
        )
        separate[name].load()
        if folder is not None:
            separate[name].attach(name, folder)
    return separate


def caption_in_turn(
    separate: dict[str, SharedBackbone], images: Sequence[Image.Image], decoding: Decoding
) -> dict[str, list[Caption]]:
    """One model after another."""
    answers: dict[str, list[Caption]] = {}
    for name, model in separate.items():
        answers |= answer_now(Generation(model, [name], images, decoding, CAPTION_PREFIX))
    return answers


def caption_side_by_side(
    separate: dict[str, SharedBackbone], images: Sequence[Image.Image], decoding: Decoding
) -> dict[str, list[Caption]]:
    """All models at once, a thread each."""
    jobs = [
        Generation(model, [name], images, decoding, CAPTION_PREFIX)
        for name, model in separate.items()
    ]
    with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        answers: dict[str, list[Caption]] = {}
        for result in pool.map(answer_now, jobs):
            answers |= result
    return answers


def photos_in(folder: Path, count: int) -> list[Path]:
    """The first photos of a folder in the RISC layout; raises BenchError where it has none."""
    paths = [example.image for example in read_examples(folder)][:count]
    if not paths:
        raise BenchError(f"There are no photos in {folder}.")
    return paths


def open_photos(
    folder: Path, count: int, settings: Settings
) -> tuple[list[Path], list[Image.Image]]:
    """`photos_in` a folder, and what they show."""
    paths = photos_in(folder, count)
    return paths, [open_image(path, max_pixels=settings.max_pixels) for path in paths]


def caption_by_generate(
    shared: SharedBackbone,
    name: str,
    images: Sequence[Image.Image],
    decoding: Decoding,
    at_once: int = 1,
) -> list[str]:
    """Transformers' way: its `generate` with a cache, so many photos in a batch. One contender
    answers, greedily, as captions were made here before there was an engine.
    """
    model, backbone = shared.model_of(name), shared.loaded
    family, processor = backbone.family, backbone.processor
    captions = []
    with shared.lock, torch.inference_mode():
        for start in range(0, len(images), at_once):
            batch = images[start : start + at_once]
            pixels = encode_images(processor, batch).to(backbone.device)
            tokens = family.generate(
                model,
                encode_text(processor, [CAPTION_PREFIX] * len(batch)).to(backbone.device),
                family.image_features(model, pixels),
                do_sample=False,
                max_new_tokens=decoding.max_new_tokens,
                logits_processor=decoding.processors(),
            )
            captions += decode(processor, tokens, backbone.model.config)
    return captions


def caption_without_cache(
    shared: SharedBackbone, name: str, images: Sequence[Image.Image], decoding: Decoding
) -> list[str]:
    """The report's way: photo after photo, the photo and the whole sequence passed at every step.

    One contender answers. Greedy only. Token types keep the prefix
    attended both ways and the caption causal, so that the captions are those of `generate`.
    """
    model, processor = shared.model_of(name), shared.loaded.processor
    device = shared.loaded.device
    ends, processors = end_tokens(shared), decoding.processors()
    captions = []
    with shared.lock, torch.inference_mode():
        for image in images:
            batch = encode_text(processor, [CAPTION_PREFIX]).to(device)
            batch["pixel_values"] = encode_images(processor, [image]).to(device)
            start = batch["input_ids"].shape[1]
            for _ in range(decoding.max_new_tokens):
                logits = model(**batch, use_cache=False).logits[:, -1].float()
                token = processors(batch["input_ids"], logits).argmax(-1, keepdim=True)  # (1, 1)
                ones = torch.ones_like(token)  # in masks and types, which not all families have
                for name in batch.keys() - {"pixel_values"}:
                    more = token if name == "input_ids" else ones
                    batch[name] = torch.cat([batch[name], more], dim=1)
                if token.item() in ends:
                    break
            captions += decode(processor, batch["input_ids"][:, start:])
    return captions
