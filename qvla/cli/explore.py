"""`qvla explore`: what a way to adapt a model costs and touches, from its configuration alone."""

from __future__ import annotations

import argparse
import csv
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, get_args, get_origin

from qvla.captioning.options import positive
from qvla.cli.output import as_json
from qvla.methods.recipe import Recipe, flag
from qvla.methods.registry import FIELDS, METHODS
from qvla.methods.values import numbers, parts
from qvla.settings import load_settings

if TYPE_CHECKING:
    from qvla.planning.comparison import Row
    from qvla.planning.explorer import Exploration

# The fields of a recipe that belong to methods, in the recipe's own order.
OWN = [name for name in Recipe.model_fields if name in FIELDS]
ALSO = {"lora_targets": ("--targets",)}
FACTS = {
    "trainable_params": "trained parameters",
    "total_params": "all parameters",
    "percent": "per cent",
    "adapter_bytes": "bytes of the file",
    "train_bytes": "bytes to train, planned",
    "serve_bytes": "bytes to serve, planned",
    "token_operations": "operations more a token",
    "photo_operations": "operations more a photo",
    "mergeable": "can be merged",
    "works_on_nf4": "works on NF4",
}
TABLE = ("trainable_params", "percent", "adapter_bytes", "train_bytes", "serve_bytes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="hub id or folder; the weights may be missing")
    parser.add_argument(
        "--method", default="lora", help=f"{', '.join(METHODS)}, or a kind of recipe (default lora)"
    )
    parser.add_argument("--all", action="store_true", help="every method, a row each")
    parser.add_argument("--precision", help="of the base: fp32, bf16, int8 or nf4")
    parser.add_argument(
        "--width", type=positive, metavar="N", help="of the bottleneck, for --reduction-factor"
    )
    group = parser.add_argument_group("the method's own", "as `train` has them; lists with commas")
    for name in OWN:
        text = Recipe.model_fields[name].description or ""
        if _is_switch(name):
            group.add_argument(f"--{flag(name)}", action=argparse.BooleanOptionalAction, help=text)
        else:
            flags = [f"--{flag(name)}", *ALSO.get(name, ())]
            group.add_argument(*flags, dest=name, metavar="VALUE", help=text.replace("%", "%%"))
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print a table as CSV")


def run(options: argparse.Namespace) -> int:
    """Prints one exploration, or a row of each method."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):
        from qvla.planning.comparison import compare
        from qvla.planning.explorer import explore

        fields = {name: _value(name, getattr(options, name)) for name in OWN}
        fields = {name: value for name, value in fields.items() if value is not None}
        if options.width is not None:
            fields["width"] = options.width
        model = options.model or load_settings().model
        if options.all or options.csv:
            methods = () if options.all else (options.method,)
            rows = compare(model, methods, precision=options.precision, **fields)
        else:
            found = explore(model, options.method, precision=options.precision, **fields)
    if options.csv:
        _write_csv(rows, output)
    elif options.all:
        print(as_json([_row_json(row) for row in rows]) if options.json else _table(rows))
    else:
        print(as_json(found.as_json()) if options.json else _in_words(found))
    return 0


def _is_switch(name: str) -> bool:
    return Recipe.model_fields[name].annotation is bool


def _value(name: str, text: Any) -> Any:
    """What was typed behind a flag, as the recipe takes it; the recipe checks it."""
    if not isinstance(text, str):
        return text
    kinds = [Recipe.model_fields[name].annotation]
    kinds += get_args(kinds[0])
    lists = [kind for kind in kinds if get_origin(kind) is list]
    if not lists:
        return text
    return numbers(text) if get_args(lists[0]) == (int,) else parts(text)


def _write_csv(rows: list[Row], output: Any) -> None:
    from qvla.planning.comparison import COLUMNS, as_row

    writer = csv.writer(output, lineterminator="\n")
    writer.writerows([COLUMNS, *map(as_row, rows)])


def _row_json(row: Row) -> dict[str, Any]:
    from qvla.planning.explorer import Exploration

    if not isinstance(row, Exploration):
        return vars(row)
    return {name: value for name, value in row.as_json().items() if name not in ("sites", "code")}


def _table(rows: list[Row]) -> str:
    from qvla.planning.explorer import Exploration

    names = ["method", *(FACTS[name] for name in TABLE)]
    lines = ["  ".join(f"{name:>24}" for name in names)]
    for row in rows:
        if not isinstance(row, Exploration):
            lines.append(f"{row.method:>24}  {row.reason}")
            continue
        cells = [row.method, *(_shown(getattr(row, name)) for name in TABLE)]
        lines.append("  ".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def _in_words(found: Exploration) -> str:
    facts = {label: _shown(getattr(found, name)) for name, label in FACTS.items()}
    lines = [f"{found.title} on {found.model}, base in {found.precision}"]
    lines += [f"{label:28}{value:>24}" for label, value in facts.items()]
    if found.nf4_reason:
        lines.append(found.nf4_reason)
    lines += ["", f"{len(found.sites)} places:"]
    lines += [_site(site) for site in found.sites]
    return "\n".join([*lines, "", found.command])


def _site(site: Any) -> str:
    size = "" if site.inputs is None else f" ({site.inputs} to {site.outputs})"
    added = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in site.added.items())
    return f"  {site.name}{size}: {added or 'wrapped'}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "not counted"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
