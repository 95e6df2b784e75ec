"""BERTScore through the package bert-score (Zhang et al. 2020, arXiv 1904.09675; equations 15 to 17
of the report that `semantic` cites).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qvla.scoring.answers import sentences
from qvla.scoring.answers.words import best_of
from qvla.scoring.checks import ScoringError
from qvla.scoring.remembered import Remembered

MINILM_LAYERS = 6  # all that it has
MOST = 65_536  # pairs whose scores are kept

Pair = tuple[str, str]


@dataclass(frozen=True)
class Bert:
    """The model whose token embeddings BERTScore compares, and after which of its layers.

    model: as the package names it, such as distilbert-base-uncased, or a folder; None is the MiniLM
    of `sentences`, which needs no network. layers: None is what the package found best for a model
    that it knows; of any other it must be given.
    """

    model: str | None = None
    layers: int | None = None

    @property
    def title(self) -> str:
        """What a result says about it."""
        return f"{self.model or sentences.NAME}, layer {_layers(self)}"


def bertscore_f1(
    answers: Sequence[str], truths: Sequence[Sequence[str]], bert: Bert | None = None
) -> np.ndarray:
    """BERTScore's F1 of each answer, (N,), without idf weights and rescaling.

    Of several right answers the best counts, and what holds no word scores 0, as in the package.
    Raises ScoringError when the model cannot be had.
    """
    scored = _scored_by(bert or Bert())

    def f1(said: Sequence[str], due: Sequence[str]) -> np.ndarray:
        # The package cannot take a text without words with this Transformers.
        pairs = list(zip(said, due, strict=True))
        worded = [place for place, texts in enumerate(pairs) if all(map(str.strip, texts))]
        scores = np.zeros(len(pairs))
        scores[worded] = scored(pairs[place] for place in worded)
        return scores

    return best_of(f1, answers, truths)


@lru_cache(maxsize=2)
def _scored_by(bert: Bert) -> Remembered[Pair, float]:
    """F1 of pairs of an answer and a right one by this model, which is loaded once."""
    from bert_score import BERTScorer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    name = str(sentences.folder()) if bert.model is None else bert.model
    try:
        scorer = BERTScorer(model_type=name, num_layers=_layers(bert))
    except AssertionError as error:
        raise ScoringError(
            f"{bert.model or sentences.NAME} has no layer {bert.layers}: {error}."
        ) from error
    except (OSError, ValueError) as error:
        raise ScoringError(
            f"The model {bert.model} for BERTScore is not at hand and could not be fetched: name a "
            "folder that holds it, or leave it out for the one that is shipped."
        ) from error

    def compute(pairs: list[Pair]) -> list[float]:
        _, _, f1 = scorer.score([said for said, _ in pairs], [due for _, due in pairs])
        return f1.double().tolist()

    return Remembered(compute, MOST)


def _layers(bert: Bert) -> int:
    if bert.layers is not None:
        return bert.layers
    if bert.model is None:
        return MINILM_LAYERS
    from bert_score.utils import model2layers

    if bert.model not in model2layers:
        raise ScoringError(
            f"The package bert-score knows no layer for {bert.model}: say after which of its "
            "layers to compare."
        )
    return model2layers[bert.model]
