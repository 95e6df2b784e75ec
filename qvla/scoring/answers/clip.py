"""Where in a photo CLIP finds a text: the regions of VTGS as the seed report has them, by another
model than the one that answered.

The report names CLIP ViT-B/32 and not how its regions come from it. Here they are the patches whose
features are nearest to the text's: the values of the vision tower's last attention, carried through
what follows as if each patch had attended to itself alone (MaskCLIP: Zhou, Loy and Dai 2022, arXiv
2112.01071), compared by cosine in the space that CLIP learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from qvla import hub
from qvla.scoring.answers.semantic import most_of, overlap
from qvla.scoring.checks import ScoringError

DEFAULT = "openai/clip-vit-base-patch32"
FILES = ("*.json", "*.safetensors", "*.txt")
TOGETHER = 32  # photos and texts embedded at once, as in the report


@dataclass(frozen=True)
class Clip:
    """A CLIP checkpoint of Transformers with safetensors, by hub id or folder."""

    model: str = DEFAULT


def clip_at_hand() -> Clip | None:
    """The default CLIP, where the download cache holds its weights; None where not."""
    found = hub.cached_file(DEFAULT, "model.safetensors")
    return None if found is None else Clip()


def clip_overlaps(
    images: Sequence[Image.Image], questions: Sequence[str], answers: Sequence[str], clip: Clip
) -> np.ndarray:
    """Sim_vis (N,) of RGB images, each with a question and an answer: the Jaccard overlap of the
    quarters of CLIP's patches that resemble the answer and the question most.

    A photo that is not square is seen without its ends, as CLIP crops it. Raises ScoringError when
    the model cannot be had.
    """
    model, processor = _loaded(clip)
    values = []
    for start in range(0, len(images), TOGETHER):
        stop = start + TOGETHER
        patches = _patches(model, processor, images[start:stop])  # (B, P, D)
        sides = [_texts(model, processor, side[start:stop]) for side in (answers, questions)]
        for patch, *texts in zip(patches, *sides, strict=True):
            values.append(overlap(*(most_of(patch @ text) for text in texts)))
    return np.array(values, dtype=float)


def _patches(model: Any, processor: Any, images: Sequence[Image.Image]) -> np.ndarray:
    """(B, P, D) of length 1."""
    import torch

    tower = model.vision_model
    pixels = processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        last = tower.encoder.layers[-1]
        before = states[-2][:, 1:]  # without the class token
        attention = last.self_attn
        after = before + attention.out_proj(attention.v_proj(last.layer_norm1(before)))
        after = after + last.mlp(last.layer_norm2(after))
        features = model.visual_projection(tower.post_layernorm(after))
    return torch.nn.functional.normalize(features, dim=-1).double().numpy()


def _texts(model: Any, processor: Any, texts: Sequence[str]) -> np.ndarray:
    """(B, D) of length 1."""
    import torch

    batch = processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        pooled = model.text_model(**batch).pooler_output
        features = model.text_projection(pooled)
    return torch.nn.functional.normalize(features, dim=-1).double().numpy()


@lru_cache(maxsize=1)
def _loaded(clip: Clip) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPProcessor

    folder = hub.local_folder(clip.model, FILES, ScoringError)
    try:
        model: Any = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ScoringError(
            f"{clip.model} is no CLIP checkpoint with safetensors that can be read: name another, "
            "or leave VTGS by CLIP out."
        ) from error
    return model.eval(), processor
