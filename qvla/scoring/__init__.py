"""How good captions are: two protocols with intervals, PTB tokens, sentence scores."""

from qvla.scoring.bootstrap import DOCUMENT_FREQUENCIES
from qvla.scoring.checks import ScoringError
from qvla.scoring.corpus import CorpusScores, corpus_scores, score_corpus
from qvla.scoring.parts import METRICS
from qvla.scoring.predictions import read_predictions
from qvla.scoring.protocols import (
    ALL_METRICS,
    PROTOCOLS,
    Difference,
    Interval,
    Scored,
    compare,
    score,
)
from qvla.scoring.ptb import tokenize
from qvla.scoring.remembered import forget
from qvla.scoring.sentence import SentenceScores, sentence_scores, shared_words

__all__ = [
    "ALL_METRICS",
    "DOCUMENT_FREQUENCIES",
    "METRICS",
    "PROTOCOLS",
    "CorpusScores",
    "Difference",
    "Interval",
    "Scored",
    "ScoringError",
    "SentenceScores",
    "compare",
    "corpus_scores",
    "forget",
    "read_predictions",
    "score",
    "score_corpus",
    "sentence_scores",
    "shared_words",
    "tokenize",
]
