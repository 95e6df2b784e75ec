"""`qvla data fetch|check|stats`: data sets brought into the RISC layout, checked and counted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvla.cli.output import as_json

if TYPE_CHECKING:
    from qvla.data.check import Problem
    from qvla.data.stats import Group, Stats

PROBLEMS = 1  # exit code of `check` when it found any, and of `fetch` for special tokens
SOURCE = (
    "folder in the RISC layout, image folder, file of captions (COCO, Karpathy, CSV, JSON Lines), "
    "parquet, or hub id"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_fetch(
        actions.add_parser(
            "fetch", help="write a hub data set or parquet files in the RISC layout, with its terms"
        )
    )
    for name, summary in (
        ("check", "list every bad row with its line; exit code 1 if there is one"),
        ("stats", "count photos and captions by source and split"),
    ):
        own = actions.add_parser(name, help=summary)
        own.add_argument("source", metavar="SOURCE", help=SOURCE)
        if name == "check":
            own.add_argument(
                "--caption-template", metavar="TEXT", help="look at the captions that it makes"
            )
        _add_json(own)


def run(options: argparse.Namespace) -> int:
    """Carries out one action and prints its result."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # whatever a library prints is no part of the result
        code, values, words = ACTIONS[options.action](options)
    print(as_json(values) if options.json else words, file=output)
    return code


Result = tuple[int, dict[str, Any], str]  # exit code, as JSON, in words


def _fetch(options: argparse.Namespace) -> Result:
    from qvla.data.check import captions_with_tokens
    from qvla.data.columns import Columns
    from qvla.data.examples import rows_of
    from qvla.data.hub_data import fetch, in_words

    columns = Columns(
        image=options.image_column,
        captions=tuple(options.captions_column or ()),
        source=options.source_column,
        split=options.split_column,
        name=options.name_column,
        source_name=options.source_name,
    )
    about = fetch(
        options.data,
        options.out,
        columns,
        preset=options.preset,
        revision=options.revision,
    )
    words = f"{about['rows']:,} rows of {about['name']} are in {options.out}. {in_words(about)}"
    problems = captions_with_tokens(rows_of(options.out))
    if problems:
        words = "\n".join([*map(_line, problems), words])
    values = {
        "folder": str(options.out),
        **about,
        "problems": [asdict(problem) for problem in problems],
    }
    return PROBLEMS if problems else 0, values, words


def _check(options: argparse.Namespace) -> Result:
    from qvla.data.check import check

    report = check(options.source, options.caption_template)
    values = {
        "folder": str(report.folder),
        "rows": report.rows,
        "counts": report.counts,
        "problems": [asdict(problem) for problem in report.problems],
    }
    lines = [*map(_line, report.problems), report.verdict]
    return PROBLEMS if report.problems else 0, values, "\n".join(lines)


def _line(problem: Problem) -> str:
    return f"{problem.table}:{problem.line}: {problem.image}: {problem.kind}: {problem.message}"


def _stats(options: argparse.Namespace) -> Result:
    from qvla.data.stats import stats

    total, groups = stats(options.source)
    values = {
        **asdict(total),
        "groups": [
            {"source": group.source, "split": group.split, **asdict(group.stats)}
            for group in groups
        ],
    }
    return 0, values, _in_words(total, groups)


def _in_words(total: Stats, groups: Iterable[Group]) -> str:
    """Two tables with a row a source and split, and one for all together."""
    rows = [((group.source, group.split), group.stats) for group in groups]
    rows.append((("all", ""), total))
    counts = ["photos", "captions", "vocabulary"]
    words = ["words_least", "words_mean", "words_median", "words_most"]
    first = _table(
        [*counts, "least", "mean", "median", "most words"],
        [(names, [getattr(item, name) for name in counts + words]) for names, item in rows],
    )
    second = _table(
        [*map(str, total.distinct), "all the same", "under five"],
        [
            (
                names,
                [
                    *(item.distinct.get(number, 0) for number in total.distinct),
                    *(item.identical, item.incomplete),
                ],
            )
            for names, item in rows
        ],
    )
    return f"{first}\n\nPhotos by how many different captions they have:\n\n{second}"


def _table(
    heads: Sequence[str], rows: Iterable[tuple[tuple[str, str], Sequence[float | None]]]
) -> str:
    cells = [["source", "split", *heads]]
    cells += [[*names, *map(_number, numbers)] for names, numbers in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if value % 1 else f"{value:,.0f}"


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="ID_OR_PARQUET", help="owner/name on the hub, or parquet file or folder"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument(
        "--preset",
        metavar="ID",
        help="columns and terms of caglarmert/full_riscm or arampacha/rsicd, for a copy of it",
    )
    group = parser.add_argument_group("columns (default: RISC's own names, or those of the preset)")
    group.add_argument("--image-column", metavar="NAME")
    group.add_argument(
        "--captions-column", metavar="NAME", nargs="+", help="of texts, or of lists of texts"
    )
    group.add_argument("--source-column", metavar="NAME")
    group.add_argument("--split-column", metavar="NAME")
    group.add_argument("--name-column", metavar="NAME", help="of file names")
    group.add_argument("--source-name", metavar="NAME", help="where there is no source column")
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON object")


ACTIONS = {"fetch": _fetch, "check": _check, "stats": _stats}
