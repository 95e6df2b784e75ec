"""Answers to a set of questions scored by all metrics, with intervals.

A set's score is the mean of its questions' (equations 8 and 14 of the report that `semantic`
cites), and the bootstrap draws questions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qvla.scoring import bootstrap
from qvla.scoring.answers import sentences
from qvla.scoring.answers.bert import Bert, bertscore_f1
from qvla.scoring.answers.semantic import ALPHA, BETA, EPSILON, csns, text_similarity, vtgs
from qvla.scoring.answers.vqav2 import PEOPLE, vqa_accuracy
from qvla.scoring.answers.words import exact_match, token_f1
from qvla.scoring.checks import ScoringError, check_metrics, check_pairs
from qvla.scoring.parts import Parts
from qvla.scoring.protocols import NO_TOKENIZER, RESAMPLES, Interval, Scored

ANSWERS = "answers"  # the protocol
VTGS = "vtgs"  # only where regions are given
VTGS_CLIP = "vtgs_clip"  # the same by the regions that CLIP finds
GROUNDED = (VTGS, VTGS_CLIP)
SIMPLE = ("exact_match", "f1", "vqa_accuracy")  # those that need no model
ANSWER_METRICS = (*SIMPLE, "bertscore_f1", "csns", *GROUNDED)

Truths = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Spread(Interval):
    """An interval with the standard deviation over the questions, whose number divides it."""

    std: float


def score_answers(
    references: Mapping[str, Sequence[str]],
    answers: Mapping[str, str],
    *,
    overlaps: Mapping[str, Mapping[str, float]] | None = None,
    metrics: Collection[str] | None = None,
    bert: Bert | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> Scored:
    """Scores answers against the right ones, matched by the question's name; all between 0 and 1.

    `overlaps` are by metric, VTGS or VTGS_CLIP, Sim_vis of those questions that have regions
    (`semantic.overlap`): the metric is the mean over these, and absent where there are none. Left
    out, `metrics` are all that can be had; `bert` is the model of BERTScore. `step` is called after
    each metric.

    The result's protocol is "answers", so `qvla.scoring.compare` sets two systems against each
    other, and its metrics are `Spread`s. Raises ScoringError when an option is unknown, a question
    is on one side only or has no right answer, or a model cannot be had.
    """
    if resamples < 1:
        raise ScoringError(f"The number of resamples must be at least 1, not {resamples}.")
    wanted = tuple(dict.fromkeys(ANSWER_METRICS if metrics is None else metrics))
    check_metrics(wanted, ANSWER_METRICS)
    check_pairs(references, answers, "question", "answer")
    seen = {
        metric: {name: value for name, value in own.items() if name in references}
        for metric, own in (overlaps or {}).items()
    }
    blind = [name for name in wanted if name in GROUNDED and not seen.get(name)]
    if blind and metrics is not None:
        raise ScoringError(
            f"{' and '.join(map(_title, blind))} needs the regions of answers and questions: leave "
            "it out."
        )
    wanted = tuple(name for name in wanted if name not in blind)

    questions = sorted(references)
    said, truths = [answers[name] for name in questions], [references[name] for name in questions]
    parts = []
    per_question: dict[str, dict[str, float]] = {}
    for metric in wanted:
        if metric in GROUNDED:
            own = seen[metric]
            places = [place for place, name in enumerate(questions) if name in own]
            text = text_similarity([said[i] for i in places], [truths[i] for i in places])
            values = vtgs(text, np.array([own[questions[i]] for i in places]))
        else:
            places = list(range(len(questions)))
            values = _values(metric, said, truths, bert)
        parts.append(_means(metric, values, places, len(questions)))
        names = [questions[place] for place in places]
        per_question[metric] = dict(zip(names, values.tolist(), strict=True))
        step()
    spread = bootstrap.resampled(parts, resamples, seed)
    return Scored(
        protocol=ANSWERS,
        images=len(questions),
        tokenizer=NO_TOKENIZER,
        seed=None,
        metrics={
            name: Spread(
                part.values[0],
                *bootstrap.interval(spread[name], part.values[0]),
                float(np.std(list(per_question[name].values()))),
            )
            for name, part in zip(wanted, parts, strict=True)
        },
        per_image=per_question,
        notes=tuple(_notes(wanted, truths, seen, bert or Bert())),
        _parts=tuple(parts),
        _truth=hashlib.sha256(json.dumps([questions, *map(list, truths)]).encode()).hexdigest(),
    )


def _title(metric: str) -> str:
    """What sentences call a metric that wants regions."""
    return "VTGS" if metric == VTGS else "VTGS by CLIP"


def _values(metric: str, answers: Sequence[str], truths: Truths, bert: Bert | None) -> np.ndarray:
    """One metric's score of each answer, (N,)."""
    if metric == "bertscore_f1":
        return bertscore_f1(answers, truths, bert)
    if metric == "csns":
        return csns(answers, truths)
    score = {"exact_match": exact_match, "f1": token_f1, "vqa_accuracy": vqa_accuracy}[metric]
    return np.array([score(said, due) for said, due in zip(answers, truths, strict=True)])


def _means(metric: str, values: np.ndarray, places: Sequence[int], questions: int) -> Parts:
    """A mean over the questions at these places, in a form that can be resampled.

    A resample without any of them has the mean itself.
    """
    mean = float(values.mean())
    sums = np.zeros((questions, 2))
    sums[places, 0], sums[places, 1] = values, 1.0

    def pool(totals: np.ndarray, _: int) -> np.ndarray:
        none = np.full(len(totals), mean)
        return np.divide(totals[:, 0], totals[:, 1], out=none, where=totals[:, 1] > 0)[:, None]

    return Parts((metric,), (mean,), sums[:, :1], sums, pool)


def _notes(
    metrics: Sequence[str], truths: Truths, seen: Mapping[str, Mapping[str, float]], bert: Bert
) -> Iterable[str]:
    """What one has to know to read the scores, a sentence each."""
    fewer = sum(len(texts) < PEOPLE for texts in truths)
    if "vqa_accuracy" in metrics and fewer:
        yield (
            f"VQA accuracy of {fewer:,} of {len(truths):,} questions, which have fewer than "
            f"{PEOPLE} answers by people, is 1 where one of them is the same."
        )
    if "bertscore_f1" in metrics:
        yield f"BERTScore is by {bert.title}, without rescaling."
    if "csns" in metrics:
        yield f"CSNS is by {sentences.NAME}, alpha {ALPHA:g} and epsilon {EPSILON:g}."
    for metric in GROUNDED:
        if metric in metrics:
            yield (
                f"{_title(metric)} is by {sentences.NAME} and beta "
                f"{BETA:g}, of the {len(seen[metric]):,} of {len(truths):,} questions that have "
                "regions."
            )
