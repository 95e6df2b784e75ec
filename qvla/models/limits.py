"""Bounds on what files of a checkpoint or an adapter may ask for, before anything is built of them.

A file from elsewhere may be made to freeze or to fill the machine that reads it: a million layers,
nested JSON without end, a pattern that takes years to match, code to be run. Real models are far
below these bounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from qvla.errors import QvlaError
from qvla.files import parse_json

JSON_BYTES = 2**27  # a tokeniser of 256,000 words takes a quarter of it
TENSORS = 20_000  # in one file
LARGEST = {  # by the end of a number's name
    "layers": 512,
    "heads": 1024,
    "vocab_size": 2**21,
    "image_size": 4096,
    "size": 2**18,
    "dim": 2**16,
}
ANY_NUMBER = 2**31  # token numbers and lengths
FREE_RANK = 256  # a rank above it must be a dimension of the adapter's own weights
PATTERN_LETTERS = 5000
PATTERN_SECONDS = 5.0
# Floats, and what NF4 and its state are stored as.
STORED = {"F64", "F32", "F16", "BF16", "U8", "I8", "I16", "I32", "I64", "BOOL"}

# Run in a process of its own, since a match cannot be interrupted: patterns and names come as JSON.
MATCHER = (
    "import json, re, sys\n"
    "given = json.load(sys.stdin)\n"
    "for pattern in given['patterns']:\n"
    "    found = re.compile(pattern)\n"
    "    for name in given['names']: found.fullmatch(name); found.match(name); found.search(name)\n"
)


def read_json(path: Path, fault: type[QvlaError], name: str | Path) -> dict[str, Any]:
    """A JSON object from a file of a model; raises `fault` for what is none, or has no bounds."""
    damaged = f"{name} has a damaged {path.name}: save or fetch it again."
    try:
        if path.stat().st_size > JSON_BYTES:
            raise fault(
                f"{name} has a {path.name} of more than {JSON_BYTES >> 20} MB: fetch it again."
            )
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise fault(damaged) from error
    if not isinstance(values, dict):
        raise fault(damaged)
    return values


def refuse_code(folder: Path, fault: type[QvlaError], name: str | Path) -> None:
    """Raises `fault` when the folder's files ask for code of theirs to be run."""
    for path in sorted(folder.glob("*config.json")):
        if "auto_map" in read_json(path, fault, name):
            raise fault(
                f"{name} wants to run code that comes with it (auto_map in {path.name}), which is "
                "never done here: use a checkpoint of a model that Transformers itself knows."
            )


def check_numbers(values: Mapping[str, Any], fault: type[QvlaError], what: str) -> None:
    """Raises `fault` for numbers of a configuration that no real model has."""
    for key, number in _numbers(values):
        ends = (limit for end, limit in LARGEST.items() if key.endswith(end))
        limit = next(ends, ANY_NUMBER)
        if abs(number) > limit:
            shown = str(number) if abs(number) < 10**12 else "a number of that many digits"
            raise fault(
                f"{what} has a {key} of {shown}, beyond the {limit:,} that is the most here: fetch "
                "or save it again."
            )


def check_tensors(path: Path, fault: type[QvlaError], name: str | Path) -> None:
    """Raises `fault` for a file of more tensors, or of other kinds of numbers, than models have."""
    with safe_open(path, framework="pt") as file:
        keys = list(file.keys())
        if len(keys) > TENSORS:
            raise fault(
                f"{name} has {len(keys):,} tensors in {path.name}, beyond the {TENSORS:,} that are "
                "the most here: save it again."
            )
        for key in keys:
            kind = file.get_slice(key).get_dtype()
            if kind not in STORED:
                raise fault(
                    f"{name} holds {key} as {kind}, which is not supported here: save its weights "
                    "in float32, float16 or bfloat16."
                )


def check_ranks(
    values: Mapping[str, Any], shapes: Iterable[Sequence[int]], fault: type[QvlaError], what: str
) -> None:
    """Raises `fault` for sizes of an adapter that its own weights do not have.

    PEFT makes room for what the configuration says before it looks at the weights.
    """
    sizes = {size for shape in shapes for size in shape}
    for key, number in _numbers(values):
        is_rank = key in ("r", "rank", "init_r", "target_r", "num_virtual_tokens")
        is_rank = is_rank or "block" in key or "dim" in key
        if is_rank and abs(number) > FREE_RANK and number not in sizes:
            raise fault(
                f"{what} names a {key} of {number}, which none of its weights has: save it again."
            )


def check_patterns(
    values: Mapping[str, Any], names: Sequence[str], fault: type[QvlaError], what: str
) -> None:
    """Raises `fault` for patterns of module names that do not compile, or match too slowly."""
    patterns = sorted(set(_patterns(values)))
    if not patterns:
        return
    if any(len(pattern) > PATTERN_LETTERS for pattern in patterns):
        raise fault(f"{what} names modules by a pattern that is too long: list their names.")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", MATCHER],
            input=json.dumps({"patterns": patterns, "names": list(names)}),
            capture_output=True,
            text=True,
            timeout=PATTERN_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise fault(
            f"{what} names modules by a pattern that takes too long to match: list their names."
        ) from error
    if done.returncode:
        raise fault(f"{what} names modules by a pattern that is none: list their names.")


def _patterns(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, str) and key.endswith(("modules", "pattern", "parameters")):
            yield value
        elif isinstance(value, dict) and key.endswith("pattern"):
            yield from map(str, value)  # ranks and scales by pattern


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(key), value
