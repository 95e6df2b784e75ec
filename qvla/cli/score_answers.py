"""`qvla score --task vqa`: scores answers of any system against the right ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qvla.errors import QvlaError
from qvla.words import counted

if TYPE_CHECKING:
    from qvla.scoring.files import FileScores


def scores(options: argparse.Namespace) -> FileScores:
    """The scores of the questions that are on both sides."""
    from qvla.scoring.answers import Bert
    from qvla.scoring.answers.files import score_answer_files

    if options.protocol != "standard" or options.tokenizer != "auto":
        raise QvlaError("--protocol and --tokenizer are of captions: leave them out for answers.")
    return score_answer_files(
        options.predictions,
        options.references,
        splits=options.split,
        sources=options.source,
        metrics=options.metrics,
        bert=Bert(options.bert_model, options.bert_layers),
        resamples=options.resamples,
        seed=options.seed,
    )


def fields(result: FileScores, options: argparse.Namespace) -> dict[str, Any]:
    """The result as a JSON object."""
    scored = result.scored
    return {
        "protocol": scored.protocol,
        "questions": scored.images,
        "metrics": {name: asdict(spread) for name, spread in scored.metrics.items()},
        "missing_predictions": _counted(result.missing_predictions),
        "missing_references": _counted(result.missing_references),
        "seed": options.seed,
        "resamples": options.resamples,
        "notes": list(scored.notes),
    }


def table(result: FileScores) -> str:
    """The result in lines."""
    scored = result.scored
    lines = [f"{counted(scored.images, 'question')}, means over questions", ""]
    lines.append(f"{'':13}{'score':>8}{'std':>8}   95 % interval")
    lines += [
        f"{name:13}{ends['value']:8.4f}{ends['std']:8.4f}   {ends['low']:.4f} to {ends['high']:.4f}"
        for name, ends in ((name, asdict(ends)) for name, ends in scored.metrics.items())
    ]
    return "\n".join(lines)


def _counted(questions: Sequence[str]) -> dict[str, Any]:
    return {"count": len(questions), "questions": list(questions)}
