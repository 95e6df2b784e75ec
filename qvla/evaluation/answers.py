"""Answers scored in groups: all questions, those of each source, those of each type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qvla.data.risc import Example
from qvla.evaluation.scores import ALL, Scoring, by_source, differences_of, values_of
from qvla.progress import progress
from qvla.scoring import Scored
from qvla.scoring.answers import ANSWERS, score_answers

MAJORITY = "majority"  # who always gives a type's commonest answer
TYPE = "type "  # before the name of a group of questions of one type


def answer_scores(
    examples: Sequence[Example],
    answers: Mapping[str, Mapping[str, str]],
    scoring: Scoring,
    overlaps: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores and paired differences by the record's keys, and what its protocol says of them.

    `answers` are by contender and question, `overlaps` too (`looking.overlaps`), for each metric
    that wants them. As a mark to beat there is the exact match of the commonest answer to each type
    of question, as these very questions have it.
    """
    numbers: dict[str, float] = {}
    notes: dict[str, None] = {}
    groups = _groups(examples)
    commonest = _commonest(examples)
    with progress(len(groups) * len(answers), "Scoring answers") as bar:
        for group, own in groups.items():
            references = {example.name: example.references for example in own}
            scored: dict[str, Scored] = {}
            for name, said in answers.items():
                scored[name] = score_answers(
                    references,
                    {question: said[question] for question in references},
                    overlaps={metric: own.get(name, {}) for metric, own in overlaps.items()},
                    metrics=scoring.metrics,
                    bert=scoring.bert,
                    resamples=scoring.resamples,
                    seed=scoring.seed,
                )
                if group == ALL:  # of the others they say the same of fewer questions
                    notes |= dict.fromkeys(scored[name].notes)
                bar.step()
            numbers[f"{ANSWERS}/{group}/questions"] = len(own)
            numbers |= values_of(ANSWERS, group, scored)
            numbers |= differences_of(ANSWERS, group, scored, scoring)
            always = score_answers(
                references,
                {example.name: commonest[example.kind] for example in own},
                metrics=["exact_match"],
                resamples=scoring.resamples,
                seed=scoring.seed,
            )
            numbers |= values_of(ANSWERS, group, {MAJORITY: always})
    return numbers, {
        "types": [group.removeprefix(TYPE) for group in groups if group.startswith(TYPE)],
        "bert": scoring.bert.title,
        **({"clip": scoring.clip.model} if scoring.clip else {}),
        "notes": list(notes),
    }


def _groups(examples: Sequence[Example]) -> dict[str, list[Example]]:
    groups = by_source(examples)
    for example in examples:
        if example.kind:
            groups.setdefault(f"{TYPE}{example.kind}", []).append(example)
    return groups


def _commonest(examples: Sequence[Example]) -> dict[str, str]:
    """By type, the answer that people give most often; of several the one met first."""
    said: dict[str, Counter[str]] = {}
    for example in examples:
        said.setdefault(example.kind, Counter()).update(example.references)
    return {kind: counts.most_common(1)[0][0] for kind, counts in said.items()}
