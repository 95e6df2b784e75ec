"""CSNS and VTGS, as the report “Multimodal Visual Question Answering using BLIP-2 with LoRA and
Quantization” (Mittal, Dogra, Priyadarshi 2025) writes them; its equations are cited by number.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence

import numpy as np

from qvla.scoring.answers.sentences import similarity
from qvla.scoring.answers.words import best_of

ALPHA = 5.0  # how sharply CSNS falls with a number's relative error (section 5)
EPSILON = 1e-6  # keeps that error finite where the right number is 0 (section 5)
BETA = 0.5  # weight of the words in VTGS (equation 13 leaves it open)
MOST = 0.25  # of the places in a photo: those that count as regions


def csns(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> np.ndarray:
    """CSNS of each answer, (N,), within 0 and 1: of numbers by their relative error (equations 6
    and 7), of anything else by the words (equations 2 to 5).

    The texts are taken as they are. Of several right answers the best counts.
    """
    return best_of(_csns, answers, truths)


def text_similarity(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> np.ndarray:
    """Sim_text of equations 9 to 11, (N,): of several right answers the best counts."""
    return best_of(similarity, answers, truths)


def number(text: str) -> float | None:
    """The number that a text is, None where it is none (equation 1).

    A text that can be parsed as a float but is no finite number, such as "nan", is a word here.
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def numeric_score(
    answer: float, truth: float, alpha: float = ALPHA, epsilon: float = EPSILON
) -> float:
    """exp(-alpha |answer - truth| / (|truth| + epsilon)): equations 6 and 7."""
    return math.exp(-alpha * (abs(answer - truth) / (abs(truth) + epsilon)))


def overlap(answer: Collection[Hashable], question: Collection[Hashable]) -> float | None:
    """Sim_vis, the Jaccard overlap of the regions of the answer and of the question (equation 12).

    None where neither has a region, for which the equation has no value.
    """
    ours, theirs = set(answer), set(question)
    both = ours | theirs
    return len(ours & theirs) / len(both) if both else None


def most_of(values: np.ndarray, share: float = MOST) -> frozenset[int]:
    """The places of the highest values, by number from the top left: a quarter of them, rounded up.
    Of equals the first count.
    """
    count = math.ceil(share * values.size)
    return frozenset(np.argsort(-values.ravel(), kind="stable")[:count].tolist())


def vtgs(text: np.ndarray, visual: np.ndarray, beta: float = BETA) -> np.ndarray:
    """VTGS (N,): the weighted geometric mean Sim_text^beta Sim_vis^(1 - beta) (equation 13)."""
    return text**beta * visual ** (1 - beta)


def _csns(answers: Sequence[str], truths: Sequence[str]) -> np.ndarray:
    scores = np.empty(len(answers))
    words = []
    for place, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
        said, due = number(answer), number(truth)
        if said is None or due is None:
            words.append(place)
        else:
            scores[place] = numeric_score(said, due)
    if words:
        scores[words] = similarity([answers[i] for i in words], [truths[i] for i in words])
    return scores
