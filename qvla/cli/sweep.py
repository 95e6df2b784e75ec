"""`qvla sweep --config sweep.yaml`: trains and evaluates many recipes, a record each."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvla.cli.output import as_json
from qvla.settings import load_settings

if TYPE_CHECKING:
    from qvla.bench.sweep import Done

FAILED_RUNS = 1
ENDED = 128 + 15  # what shells report of a process that SIGTERM ended

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The same command goes on where an earlier one was cut off, and does nothing twice."
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="YAML: `common` settings of a recipe, `evaluation`, and `runs`, single ones or grids",
    )
    parser.add_argument("--model", help="base of runs that name none (default: QVLA_MODEL)")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="of runs that name none (default: QVLA_DATA)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="of adapters and captions (default: sweeps/NAME)"
    )
    parser.add_argument(
        "--records", type=Path, metavar="FOLDER", help="of the records (default: QVLA_RECORDS)"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try runs again that failed before"
    )
    parser.add_argument(
        "--list", action="store_true", help="say which runs there are and which are done, no more"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run(options: argparse.Namespace) -> int:
    """Prints a row a run; exit code 1 when some failed."""
    settings = load_settings(**({"model": options.model} if options.model else {}))
    out = options.out or settings.home / "sweeps" / options.config.stem
    folder = options.records or settings.records
    defaults: dict[str, Any] = {"model": settings.model}
    if data := options.data or settings.data:
        defaults["data"] = data
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # whatever a library prints is no part of the result
        from qvla.bench.sweep_config import read_sweep

        sweep = read_sweep(options.config, out, defaults)
        from qvla.bench.sweep import finished, run_sweep
        from qvla.tuning.attempt import Ended

        if options.list:
            done = finished(sweep, folder)
        else:
            try:
                done = run_sweep(
                    sweep, out=out, records_folder=folder, retry_failed=options.retry_failed
                )
            except Ended as error:
                log.error("%s", error)
                return ENDED
    by_key = {one.run.key: one for one in done}
    rows = [_row(run.label, run.key, by_key.get(run.key)) for run in sweep.runs]
    print(as_json(rows) if options.json else _table(rows), file=output, flush=True)
    return FAILED_RUNS if any(row["state"] == "failed" for row in rows) else 0


def _row(label: str, key: str, done: Done | None) -> dict[str, Any]:
    if done is None:
        return {"run": label, "key": key, "state": "waiting"}
    record = done.kept.record
    row: dict[str, Any] = {"run": label, "key": key, "state": "failed" if done.failed else "done"}
    if done.failed:
        row["why"] = done.failed
    return row | {"record": str(done.kept.path), "numbers": dict(record.numbers)}


def _table(rows: list[dict[str, Any]]) -> str:
    width = max(len(row["run"]) for row in rows)
    lines = [f"{'run':{width}}{'trained':>12}{'CIDEr':>8}   95 % interval"]
    for row in rows:
        if row["state"] != "done":
            why = f": {row['why']}" if "why" in row else ""
            lines.append(f"{row['run']:{width}}  {row['state']}{why}")
            continue
        own = row["numbers"]
        lines.append(
            f"{row['run']:{width}}{own['trained_parameters']:12,}{own['CIDEr']:8.3f}"
            f"   {own['CIDEr/low']:.3f} to {own['CIDEr/high']:.3f}"
        )
    return "\n".join(lines)
