"""How good answers to questions are: words, VQAv2's people, embeddings, where a model looked."""

from qvla.scoring.answers.bert import Bert
from qvla.scoring.answers.score import (
    ANSWER_METRICS,
    ANSWERS,
    SIMPLE,
    VTGS,
    Spread,
    score_answers,
)
from qvla.scoring.answers.semantic import overlap

__all__ = [
    "ANSWERS",
    "ANSWER_METRICS",
    "SIMPLE",
    "VTGS",
    "Bert",
    "Spread",
    "overlap",
    "score_answers",
]
