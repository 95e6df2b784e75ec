"""How good answers to questions are: words, VQAv2's people, embeddings, where a model looked."""

from qvla.scoring.answers.bert import Bert
from qvla.scoring.answers.clip import Clip
from qvla.scoring.answers.score import (
    ANSWER_METRICS,
    ANSWERS,
    SIMPLE,
    VTGS,
    VTGS_CLIP,
    Spread,
    score_answers,
)
from qvla.scoring.answers.semantic import most_of, overlap

__all__ = [
    "ANSWERS",
    "ANSWER_METRICS",
    "SIMPLE",
    "VTGS",
    "VTGS_CLIP",
    "Bert",
    "Clip",
    "Spread",
    "most_of",
    "overlap",
    "score_answers",
]
