"""Teaches the embedded model words: the tasks of `tasks`, by what the vision tower sees.

The tower stays as sight left it. Taught along, it comes to know the training photos one by one, and
the decoder their captions by heart.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature

from qvla.captioning.prompts import IGNORED, encode_text
from qvla.embedded.architecture import FAMILY
from qvla.embedded.budget import BudgetRun
from qvla.embedded.sight import LITTLE
from qvla.embedded.sources import TrainingPhoto, shares_of
from qvla.embedded.tasks import FUNCTION_WORDS, Prompt, prompts_of
from qvla.embedded.views import STUDENT_SIZE, Views, for_student, in_other_light, whole
from qvla.models.families.word_tokens import split_words

log = logging.getLogger(__name__)

PHOTOS = 48  # a step; each is seen once and asked four things
LENGTH = 80  # tokens a row, image included: one length, so that the decoder is compiled once
# The share of an answer's words that the decoder is not shown while it tells the next: it then has
# to look at the photo rather than to remember a caption (Bowman et al. 2016, arXiv 1511.06349).
UNSHOWN = 0.2
LOOKED_AT = 96  # photos


def train_language(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    photos: Sequence[TrainingPhoto],
    views: Views,
    *,
    minutes: float,
    checkpoint: Path,
    held_out: Sequence[TrainingPhoto] = (),
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Trains `model` (eager attention) for the given minutes; returns the float32 weights of what
    was trained.

    The loss on photos `held_out`, and on as many of those that it is taught, is in the log.
    """
    model.get_submodule(FAMILY.tower).requires_grad_(False)
    run = BudgetRun(
        nn.ModuleDict({"model": model}),
        minutes=minutes,
        learning_rate=6e-4,
        weight_decay=0.05,
        checkpoint=checkpoint,
        seed=seed,
    )
    model.train()
    if views.device.type == "cpu":  # a GPU gains less than the minute that compiling takes
        for part in (FAMILY.tower, FAMILY.decoder):
            model.get_submodule(part).compile()
    common = _common_words(photos)
    shares = shares_of(photos, views.device)
    drawn = random.Random(0)
    looked_at = {
        name: drawn.sample(list(some), min(LOOKED_AT, len(held_out)))
        for name, some in (("held out photos", held_out), ("photos it is taught", photos))
        if held_out
    }

    def losses() -> dict[str, torch.Tensor]:
        rows = shares.multinomial(PHOTOS, replacement=True)
        shown = views.draw(rows, coarse=0)  # mirrored, a photo shows more than is said
        words = random.Random(run.step_seed)
        asked = [p for row in rows.tolist() for p in prompts_of(photos[row], common, words)]
        pixels = in_other_light(for_student(shown), LITTLE)
        return {"loss": loss_of(model, processor, pixels, asked, unshown=UNSHOWN)}

    def look() -> None:
        for name, some in looked_at.items():
            told = loss_on(model, processor, some, common)
            log.info("on %d %s the loss is %.4f", len(some), name, told)

    run.go("language", losses, look)
    return {name.removeprefix("model."): w for name, w in run.master_weights().items()}


def loss_of(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    pixels: torch.Tensor,
    asked: Sequence[Prompt],
    *,
    unshown: float = 0.0,
) -> torch.Tensor:
    """The mean negative log-likelihood of the answers' tokens, given photos (B, 3, S, S) and as
    many prompts about each, those of one photo together. A share of the words is `unshown`.
    """
    like, unknown = next(model.parameters()), processor.tokenizer.unk_token_id
    batch = _of_one_length(
        encode_text(processor, [p.prefix for p in asked], [p.suffix for p in asked])
    )
    batch["input_ids"] = partly_shown(batch["input_ids"], batch["labels"], unknown, unshown)
    batch = {name: part.to(like.device) for name, part in batch.items()}
    labels = batch.pop("labels")
    labels[labels == unknown] = IGNORED
    features = FAMILY.image_features(model, pixels.to(like.device, like.dtype))
    seen = FAMILY.given_features(features.repeat_interleave(len(asked) // len(pixels), dim=0))
    hidden = model.base_model(**batch, **seen, use_cache=False)[0]
    # the state at a position predicts the next token, so labels are read one place later
    told = labels[:, 1:] != IGNORED
    logits = model.get_output_embeddings()(hidden[:, :-1][told])
    return F.cross_entropy(logits.float(), labels[:, 1:][told])


@torch.no_grad()
def loss_on(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    photos: Sequence[TrainingPhoto],
    common: Sequence[str],
) -> float:
    """The mean over photos, whole and as they are, each asked what it is asked in training."""
    words, losses = random.Random(0), []
    with torch.compiler.set_stance("force_eager"):  # compiling for this would take longer
        for photo in photos:
            asked = prompts_of(photo, common, words)
            told = loss_of(model, processor, whole([photo.example], STUDENT_SIZE), asked)
            losses.append(told.item())
    return sum(losses) / len(losses)


def partly_shown(
    ids: torch.Tensor, labels: torch.Tensor, unknown: int, share: float
) -> torch.Tensor:
    """Token ids (B, T) with a share of those that have a label replaced by `unknown`."""
    drawn = torch.rand(ids.shape) < share
    return ids.masked_fill(drawn & (labels != IGNORED), unknown)


def _of_one_length(batch: BatchFeature) -> dict[str, torch.Tensor]:
    """Rows cut or padded to LENGTH; the few that are longer lose the end of their answer."""
    fill = {"labels": IGNORED}
    missing = LENGTH - batch["input_ids"].shape[1]  # below 0 cuts
    return {
        name: F.pad(rows, (0, missing), value=fill.get(name, 0)) for name, rows in batch.items()
    }


def _common_words(photos: Sequence[TrainingPhoto]) -> list[str]:
    """The 150 things that most photos' captions mention, to ask about."""
    counts: Counter[str] = Counter()
    for photo in photos:
        counts.update({w for text in photo.example.references for w in split_words(text)})
    return [word for word, _ in counts.most_common(300) if word not in FUNCTION_WORDS][:150]
