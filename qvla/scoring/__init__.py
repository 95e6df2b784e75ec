"""How good captions are: PTB tokens, corpus scores by the standard protocol, sentence scores."""

from qvla.scoring.corpus import METRICS, CorpusScores, ScoringError, corpus_scores, score_corpus
from qvla.scoring.ptb import tokenize
from qvla.scoring.sentence import SentenceScores, sentence_scores, shared_words

__all__ = [
    "METRICS",
    "CorpusScores",
    "ScoringError",
    "SentenceScores",
    "corpus_scores",
    "score_corpus",
    "sentence_scores",
    "shared_words",
    "tokenize",
]
