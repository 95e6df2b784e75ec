"""METEOR 1.5 by the program that comes with pycocoevalcap, where there is Java.

The program aligns each caption with its references (exact words, stems, synonyms, paraphrases) and
counts. The score is a formula of these counts (Denkowski and Lavie 2014, section 2), and the score
of many captions is the same formula of their sums; it stands here so that sets of photos can be
scored again without aligning again. It equals the program's own for its English parameters.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocoevalcap.meteor import meteor

from qvla.scoring import java
from qvla.scoring.java import JavaError
from qvla.scoring.parts import Parts
from qvla.scoring.remembered import Remembered

METEOR = "METEOR"
SECONDS, SECONDS_EACH = 120, 0.05  # until Java is given up; it takes 5 s and 300 captions a second
MOST = 32_768  # captions whose counts are kept, about 30 MB

# The program's counts: lengths and numbers of function words of caption and reference, then for
# each kind of match content and function words of both, then chunks and matched words of both.
COUNTS = 23
KINDS = slice(4, 20)
CHUNKS, MATCHED = 20, slice(21, 23)
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # of exact, stem, synonym and paraphrase matches
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75

log = logging.getLogger(__name__)


def measure_meteor(references: Sequence[Sequence[str]], captions: Sequence[str]) -> Parts:
    """METEOR of the captions. Raises JavaError when there is no Java or the program fails."""
    keys = zip(captions, map(tuple, references), strict=True)
    sums = np.array(_counts(keys))
    whole = (sums[:, MATCHED] == sums[:, :2]).all(axis=1) & (sums[:, CHUNKS] == 1)
    sums[whole, CHUNKS] = 0  # a caption that equals its reference is not cut into chunks
    values = _pool(sums.sum(axis=0, keepdims=True), len(sums))[0]
    return Parts((METEOR,), (float(values[0]),), _pool(sums, 1), sums, _pool)


def _run(pairs: list[tuple[str, tuple[str, ...]]]) -> list[np.ndarray]:
    log.info("Aligning %d captions for METEOR …", len(pairs))
    answers = java.run(
        ["-Xmx2G", "-jar", meteor.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"],
        folder=Path(meteor.__file__).parent,
        lines=[" ||| ".join(("SCORE", *map(_line, (*texts, said)))) for said, texts in pairs],
        seconds=SECONDS + SECONDS_EACH * len(pairs),
    )
    try:
        counts = [np.array(answer.split(), dtype=float) for answer in answers]
    except ValueError as error:
        raise JavaError("METEOR's program gave no counts") from error
    if len(counts) != len(pairs) or any(row.shape != (COUNTS,) for row in counts):
        raise JavaError("METEOR's program did not answer every caption")
    return counts


_counts = Remembered(_run, MOST)


def _line(text: str) -> str:
    """The text without what would end a line or a field of the program's input."""
    return " ".join(text.replace("|||", " ").split())


def _pool(sums: np.ndarray, count: int) -> np.ndarray:
    """METEOR from sums of counts, (sets, COUNTS) to (sets, 1)."""
    kinds = sums[:, KINDS].reshape(-1, len(WEIGHTS), 4)
    lengths, function_words = sums[:, :2], sums[:, 2:4]
    matched = WEIGHTS @ (DELTA * kinds[:, :, :2] + (1 - DELTA) * kinds[:, :, 2:])
    weighted = DELTA * (lengths - function_words) + (1 - DELTA) * function_words
    precision, recall = _ratio(matched, weighted).T
    mean = _ratio(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
    fragmentation = _ratio(sums[:, CHUNKS], sums[:, MATCHED].mean(axis=1))
    return (mean * (1 - GAMMA * fragmentation**BETA))[:, None]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where both are nothing."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
