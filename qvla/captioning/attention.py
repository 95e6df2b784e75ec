"""Where a model looked in a photo while it read a question and while it answered.

From the attention of the model's own decoder, in one forward pass over photo, prompt and answer:
the weights on the image tokens, as a mean over layers, heads and the tokens in question, scaled to
sum to 1. An answer's weights are those of the positions that said its tokens, the first of which is
the prompt's last token; the question's are those of the other words of the prompt behind the photo.
Attention is a hint at what counted and no proof of it (Jain and Wallace 2019, arXiv 1902.10186).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from PIL import Image

from qvla.captioning.generation import CaptioningError
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import IGNORED, encode_images, encode_text, is_question, task_of
from qvla.captioning.shared_backbone import Batch
from qvla.captioning.sharing import captioning_turn
from qvla.methods.rows import names_of_rows
from qvla.models.backbone import Backbone

UNTOLD = "{title} does not tell where in a photo it looked."


@dataclass(frozen=True)
class Looked:
    """Shares of attention by place in the photo, from its top left corner: (G, G) each, the sum 1.

    G is the side of the grid of image tokens, 16 in PaliGemma at 224 pixels.
    """

    question: np.ndarray
    answer: np.ndarray


def where_it_looked(
    lineup: Lineup, name: str, image: Image.Image, prefix: str, answer: str
) -> Looked:
    """Where a contender or task looked in an RGB image, with this prompt, for this answer of it.

    A caption is an answer to its prompt. Waits for a generation under way on the same weights.
    Raises QvlaError for an unknown name, and CaptioningError where the contender is not available
    or its family has no image tokens in its decoder.
    """
    variant = lineup.variant(name)
    if not variant.available:
        raise CaptioningError(f"{variant.title} is not available: {variant.reason}")
    shared = lineup.shared(name)
    with shared.lock, captioning_turn(shared.device_lock):
        faults = lineup.bring(shared, [name])
        if faults:
            raise CaptioningError(faults[name])
        (batch,) = shared.batches([name], questions=is_question(prefix))
        return _looked(shared.loaded, batch, image, prefix, answer)


def _looked(
    backbone: Backbone, batch: Batch, image: Image.Image, prefix: str, answer: str
) -> Looked:
    """Of the one contender of a batch, as `generation` asks it."""
    family, processor = backbone.family, backbone.processor
    if family.image_token is None:
        raise CaptioningError(UNTOLD.format(title=family.title))
    inputs = encode_text(processor, [prefix], [answer])
    labels = inputs.pop("labels")[0]
    tokens = inputs["input_ids"][0]
    seen = tokens == processor.tokenizer.convert_tokens_to_ids(family.image_token)
    side = math.isqrt(int(seen.sum()))
    if not side or side * side != int(seen.sum()):
        raise CaptioningError(UNTOLD.format(title=family.title))
    question, said = _rows(tokens, labels, seen, processor.tokenizer.bos_token_id)
    pixels = encode_images(processor, [image]).to(backbone.device)
    names = names_of_rows(batch.model, [task_of(prefix)], batch.row_adapters)
    mixed = {} if names is None else {"adapter_names": names}
    model: Any = batch.model
    with torch.inference_mode(), _told_attention(model):
        seeing = model if batch.changes_sight else backbone.model
        output = model(
            **inputs.to(backbone.device),
            **mixed,
            **family.given_features(family.image_features(seeing, pixels)),
            output_attentions=True,
            use_cache=False,
            logits_to_keep=1,  # which nobody reads
        )
    rows = torch.zeros(len(tokens), int(seen.sum()))
    for layer in output.attentions:  # (1, H, T, K), where K may hold a prefix's keys before T
        own = layer[0, :, :, -len(tokens) :].float().mean(0).cpu()
        rows += own[:, seen]
    return Looked(_shares(rows[question], side), _shares(rows[said], side))


def _rows(
    tokens: torch.Tensor, labels: torch.Tensor, seen: torch.Tensor, begins: int
) -> tuple[list[int], list[int]]:
    """The positions of the question's words, and those that said the answer's tokens.

    An answer without words is looked for where its end was said. `begins` is the token `<bos>`.
    """
    due = torch.nonzero(labels != IGNORED).flatten().tolist()
    begin = due[0]
    said = [place - 1 for place in due[:-1]] or [begin - 1]
    last_seen = int(torch.nonzero(seen).max())
    words = [p for p in range(last_seen + 1, begin - 1) if int(tokens[p]) != begins]
    return words or [begin - 1], said


def _shares(rows: torch.Tensor, side: int) -> np.ndarray:
    weights = rows.double().mean(0)
    return (weights / weights.sum()).reshape(side, side).numpy()


@contextmanager
def _told_attention(model: Any) -> Iterator[None]:
    """Has the decoder compute attention in the way that tells its weights."""
    bare: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    before = bare.config.text_config._attn_implementation
    bare.set_attn_implementation({"text_config": "eager"})
    try:
        yield
    finally:
        bare.set_attn_implementation({"text_config": before})
