"""Scores of one caption of one photo, and the words it shares with the photo's references.

CIDEr weighs a word by the number of photos whose references use it. With a single photo that is
degenerate (every weight is log 1 = 0), so here the weights come from a fixed table: in how many of
the train photos of RSICD and UCM, 10,414 documents, the references hold each n-gram. The table
(`assets/document_frequencies.npz`, made by `qvla.scoring.frequencies`) holds hashes and counts, no
text; RSICD's captions are for research use. A sentence's score therefore does not depend on which
other photos are scored, and is not on the scale of a corpus CIDEr.

Beside it stands ROUGE-L and not BLEU-4, which is 0 for nearly every single sentence: it multiplies
four precisions, and one sentence seldom shares four words in a row with a reference. A sentence's
ROUGE-L is what it is in a set, whose value is the mean of its sentences'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from qvla.scoring.checks import ScoringError
from qvla.scoring.ptb import find_tokens, tokenize
from qvla.settings import ASSETS

TABLE = ASSETS / "document_frequencies.npz"

# Words that say nothing about the photo: they are never marked as shared.
FUNCTION_WORDS = frozenset(
    """a about all also an and another any are as at be been being both but by can could do does
    each for from had has have he her here his i if in into is it its may of off on one onto or
    other our over own she so some such than that the their them then there these they this those
    to too upon very was we were what when where which while who whose will with would you your
    's 'd 'll 'm 're 've n't not no""".split()
)


@dataclass(frozen=True)
class SentenceScores:
    """CIDEr-D (0 to 10) and ROUGE-L (0 to 1) of one caption against one photo's references."""

    cider_d: float
    rouge_l: float


class DocumentFrequencies:
    """In how many documents an n-gram occurs; 1 for those in fewer than two, which weigh the same.

    Indexed by n-grams as tuples of words, as pycocoevalcap's scorer does.
    """

    def __init__(self, counts: dict[int, int], documents: int) -> None:
        self._counts = counts
        self.documents = documents

    def __getitem__(self, ngram: tuple[str, ...]) -> int:
        return self._counts.get(hash_ngram(ngram), 1)

    @classmethod
    def of(cls, counts: Mapping[tuple[str, ...], int], documents: int) -> DocumentFrequencies:
        """From counts that are not hashed yet (`qvla.scoring.frequencies`)."""
        kept = {hash_ngram(ngram): count for ngram, count in counts.items() if count >= 2}
        return cls(kept, documents)

    @classmethod
    def read(cls, file: Path) -> DocumentFrequencies:
        """Raises ScoringError when the file is missing or is not such a table."""
        try:
            with np.load(file, allow_pickle=False) as table:
                counts = dict(zip(table["hashes"].tolist(), table["counts"].tolist(), strict=True))
                return cls(counts, int(table["documents"]))
        except FileNotFoundError:
            raise ScoringError(
                f"Sentence scores need {file}, which is missing; restore it or make it again with "
                "`python -m qvla.scoring.frequencies`."
            ) from None
        except Exception as error:
            raise ScoringError(
                f"{file} is not a table of document frequencies; restore it or make it again with "
                "`python -m qvla.scoring.frequencies`."
            ) from error


def hash_ngram(ngram: tuple[str, ...]) -> int:
    """A 64-bit number for an n-gram, the same on every machine and in every run."""
    return int.from_bytes(blake2b(" ".join(ngram).encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=1)
def document_frequencies() -> DocumentFrequencies:
    """The table that comes with the project, read at the first call."""
    return DocumentFrequencies.read(TABLE)


class _FixedCiderScorer(CiderScorer):
    """pycocoevalcap's CIDEr-D with the document frequencies of another corpus.

    The scorer sets `ref_len`, the log of the number of documents, from what it is given to score;
    here it is fixed.
    """

    def __init__(self, frequencies: DocumentFrequencies) -> None:
        self._log_documents = math.log(frequencies.documents)
        super().__init__(n=4, sigma=6.0)
        self.document_frequency = frequencies

    @property
    def ref_len(self) -> float:
        return self._log_documents

    @ref_len.setter
    def ref_len(self, value: float | None) -> None:
        pass


def sentence_scores(
    caption: str,
    references: Sequence[str],
    frequencies: DocumentFrequencies | None = None,
) -> SentenceScores:
    """Scores one raw caption against one photo's raw references.

    An empty caption scores 0. References without a word are passed over; ScoringError when none is
    left. frequencies: another table than the project's own.
    """
    if isinstance(references, str):
        raise ScoringError("The references must be a list of captions, not one text.")
    said, *truth = tokenize([caption, *references])
    truth = [reference for reference in truth if reference]
    if not truth:
        raise ScoringError("None of the references holds a word; write at least one to score.")
    [cider] = cider_d([said], [truth], frequencies or document_frequencies())
    rouge = Rouge().calc_score([said], truth) if said else 0.0
    return SentenceScores(cider, float(rouge))


def cider_d(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies,
) -> list[float]:
    """CIDEr-D of each caption against its own references, all of them as tokens in one line."""
    scorer = _FixedCiderScorer(frequencies)
    for caption, texts in zip(captions, references, strict=True):
        scorer += (caption, list(texts))
    return [float(score) for score in scorer.compute_cider()]


def shared_words(caption: str, references: Sequence[str]) -> list[tuple[str, bool]]:
    """The caption in pieces, each with whether it is a word that a reference has too.

    The pieces are words and what stands between them; joined they are the caption. Words are
    compared as PTB tokens in lower case. Punctuation and function words are never marked.
    """
    shared = {word for line in tokenize(references) for word in line.split(" ")} - FUNCTION_WORDS
    pieces: list[tuple[str, bool]] = []
    position = 0
    for token in find_tokens(caption):
        if token.start > position:
            pieces.append((caption[position : token.start], False))
        text = caption[token.start : token.stop]
        is_word = any(character.isalnum() for character in text)
        pieces.append((text, is_word and token.text in shared))
        position = token.stop
    if position < len(caption):
        pieces.append((caption[position:], False))
    return pieces
