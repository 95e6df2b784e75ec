"""`qvla score`: scores captions of any system against the references of a data set."""

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
from qvla.words import counted

if TYPE_CHECKING:
    from qvla.scoring.files import FileScores

PROTOCOLS = {
    "standard": "all references, PTB tokens",
    "reported": "one reference drawn at random, raw strings",
}

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="FILE",
        help="JSON Lines: an object with image and caption a photo; or COCO results, CSV, a JSON "
        "object of captions by name",
    )
    parser.add_argument(
        "--references",
        required=True,
        metavar="SOURCE",
        help="file of captions (its images need not be there), or data set, as `data` takes them",
    )
    parser.add_argument("--split", metavar="NAMES", type=_names, help="such as val (default: all)")
    parser.add_argument(
        "--source", metavar="NAMES", type=_names, help="such as RSICD,UCM (default: all)"
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="standard",
        help="; ".join(f"{name}: {words}" for name, words in PROTOCOLS.items()),
    )
    parser.add_argument(
        "--metrics", metavar="NAMES", type=_names, help="such as CIDEr,BLEU-4 (default: all)"
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
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(options: argparse.Namespace) -> int:
    """Prints the scores of the images that are on both sides, and names the others."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # whatever a library prints is no part of the result
        from qvla.scoring.files import score_files

        result = score_files(
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
        for text in _left_out(result):
            log.warning("%s", text)
        for note in result.scored.notes:
            log.info("%s", note)
        text = as_json(_as_json(result, options)) if options.json else _table(result)
    print(text, file=output)
    return 0


def _as_json(result: FileScores, options: argparse.Namespace) -> dict[str, Any]:
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


def _left_out(result: FileScores) -> list[str]:
    from qvla.scoring.checks import some

    return [
        f"Left out, having no {lacking}: {len(images):,} ({some(images)})."
        for images, lacking in (
            (result.missing_predictions, "caption"),
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
