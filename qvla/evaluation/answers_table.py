"""A record of answers in words: tables by source and type, and what was reported elsewhere."""

from __future__ import annotations

from qvla.evaluation.answers import MAJORITY, TYPE
from qvla.evaluation.scores import ALL
from qvla.evaluation.table import cell, heading, row, speeds, verdict
from qvla.records.reported import reported_answers
from qvla.records.store import Record
from qvla.scoring.answers import ANSWER_METRICS, ANSWERS

FIGURES = ("f1", "bertscore_f1", "csns", "vtgs")  # that were reported


def answers_table(record: Record) -> str:
    """All groups, the commonest answer beside the contenders, then speeds, verdicts and reports."""
    metrics = [
        metric
        for metric in ANSWER_METRICS
        if any(f"{ANSWERS}/{name}/{ALL}/{metric}" in record.numbers for name in record.variants)
    ]
    groups = [ALL, *record.protocol["sources"]]
    groups += [f"{TYPE}{kind}" for kind in record.protocol["types"]]
    rows = [("", "", metrics)]
    for group in groups:
        title = f"{group}, {record.numbers[f'{ANSWERS}/{group}/questions']:,}"
        for name in (*record.variants, MAJORITY):
            keys = [f"{ANSWERS}/{name}/{group}/{metric}" for metric in metrics]
            rows.append((title, name, [_cell(record, key) for key in keys]))
            title = ""
    width = max(len(one[0]) for one in rows)
    return "\n".join(
        [
            heading(record, "question"),
            "",
            "Means over questions; 95 % intervals",
            *(row(*one, width) for one in rows),
            *("", *record.protocol["notes"], ""),
            *speeds(record, "question"),
            *verdicts(record),
            *("", *reported_lines()),
        ]
    )


def verdicts(record: Record) -> list[str]:
    """Whether each two contenders differ in exact matches, a sentence a pair."""
    names = record.variants
    pairs = [(one, two) for place, one in enumerate(names) for two in names[place + 1 :]]
    return [verdict(record, *pair, ANSWERS, "exact_match", "questions") for pair in pairs]


def reported_lines() -> list[str]:
    """The seed report's tables 1 to 3, as they are printed there."""
    told = reported_answers()
    lines = [f"Reported, not measured here, on other questions ({told['data']}):"]
    lines.append(f"  {'':34}" + "".join(f"{name:>14}" for name in FIGURES))
    for one in told["results"]:
        title = f"table {one['table']}: {one['model']}, {one['setting']}"
        lines.append(f"  {title:34}" + "".join(f"{one[name]:14.4f}" for name in FIGURES))
    return lines


def _cell(record: Record, key: str) -> str:
    return cell(record, key) if key in record.numbers else ""
