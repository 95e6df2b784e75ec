"""`qvla score`: scores captions or answers of any system against people's."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qvla.captioning.options import positive
from qvla.cli.output import as_json
from qvla.errors import QvlaError
from qvla.words import counted

if TYPE_CHECKING:
    from qvla.scoring.files import FileScores

PROTOCOLS = {
    "standard": "all references, PTB tokens",
    "reported": "one reference drawn at random, raw strings",
}

CAPTIONS, ANSWERS = TASKS = ("caption", "vqa")

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        choices=TASKS,
        default=CAPTIONS,
        help="vqa: answers to questions (default: caption)",
    )
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="FILE",
        help="JSON Lines: an object with image and caption a photo; or COCO results, CSV, a JSON "
        "object of captions by name; of answers with question, answer, and image or ID",
    )
    parser.add_argument(
        "--references",
        required=True,
        metavar="SOURCE",
        help="file of captions (its images need not be there), or data set, as `data` takes them; "
        "or file of right answers",
    )
    parser.add_argument("--split", metavar="NAMES", type=_names, help="such as val (default: all)")
    parser.add_argument(
        "--source", metavar="NAMES", type=_names, help="such as RSICD,UCM (default: all)"
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="standard",
        help="of captions; " + "; ".join(f"{name}: {how}" for name, how in PROTOCOLS.items()),
    )
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        type=_names,
        help="such as CIDEr,BLEU-4 or f1,csns (default: all)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=("auto", "java", "python"),
        default="auto",
        help="of the standard protocol; auto is Java's where there is Java",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="draws references and resamples"
    )
    parser.add_argument(
        "--resamples", type=positive, default=1000, metavar="N", help="of the 95 %% intervals"
    )
    parser.add_argument(
        "--bert-model",
        metavar="NAME",
        help="of BERTScore for answers, as bert-score names it, or a folder (default: MiniLM)",
    )
    parser.add_argument(
        "--bert-layers", type=positive, metavar="N", help="of a model that bert-score does not know"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(options: argparse.Namespace) -> int:
    """Prints the scores of what is on both sides, and names the rest."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # whatever a library prints is no part of the result
        if options.task == ANSWERS:
            from qvla.cli import score_answers

            result = score_answers.scores(options)
            said, table, fields = "answer", score_answers.table, score_answers.fields
        else:
            result = _scores(options)
            said, table, fields = "caption", _table, _fields
        for text in _left_out(result, said):
            log.warning("%s", text)
        for note in result.scored.notes:
            log.info("%s", note)
        text = as_json(fields(result, options)) if options.json else table(result)
    print(text, file=output)
    return 0


def _scores(options: argparse.Namespace) -> FileScores:
    from qvla.scoring.files import score_files

    if options.bert_model or options.bert_layers:
        raise QvlaError("BERTScore is of answers: add --task vqa, or leave its model out.")
    return score_files(
        options.predictions,
        options.references,
        options.protocol,
        splits=options.split,
        sources=options.source,
        seed=options.seed,
        metrics=options.metrics,
        resamples=options.resamples,
        tokenizer=options.tokenizer,
    )


def _fields(result: FileScores, options: argparse.Namespace) -> dict[str, Any]:
    from qvla.scoring import DOCUMENT_FREQUENCIES

    scored = result.scored
    return {
        "protocol": scored.protocol,
        "images": scored.images,
        "tokenizer": scored.tokenizer,
        "metrics": {name: asdict(interval) for name, interval in scored.metrics.items()},
        "missing_predictions": _counted(result.missing_predictions),
        "missing_references": _counted(result.missing_references),
        "seed": scored.seed,
        "resamples": options.resamples,
        "document_frequencies": DOCUMENT_FREQUENCIES,
        "notes": list(scored.notes),
    }


def _counted(images: Sequence[str]) -> dict[str, Any]:
    return {"count": len(images), "images": list(images)}


def _left_out(result: FileScores, said: str) -> list[str]:
    from qvla.scoring.checks import some

    return [
        f"Left out, having no {lacking}: {len(images):,} ({some(images)})."
        for images, lacking in (
            (result.missing_predictions, said),
            (result.missing_references, "references"),
        )
        if images
    ]


def _table(result: FileScores) -> str:
    scored = result.scored
    how = PROTOCOLS[scored.protocol]
    if scored.seed is None:
        how += f" by {scored.tokenizer.title()}"
    else:
        how += f", seed {scored.seed}"
    lines = [f"{counted(scored.images, 'image')}, {scored.protocol} protocol ({how})", ""]
    lines.append(f"{'':10}{'score':>8}   95 % interval")
    lines += [
        f"{name:10}{ends.value:8.4f}   {ends.low:.4f} to {ends.high:.4f}"
        for name, ends in scored.metrics.items()
    ]
    return "\n".join(lines)


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("name at least one")
    return names
