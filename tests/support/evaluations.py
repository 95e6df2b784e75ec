"""Evaluation records made by hand: figures of no model, each number of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, count
from pathlib import Path

from qvla.data.risc import Example, fingerprint
from qvla.records import store as records

VARIANTS = ("base", "adapter", "qvla")
PROTOCOLS = ("standard", "reported")
METRICS = ("CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L")


def numbers(examples: Sequence[Example], variants: Sequence[str] = VARIANTS) -> dict[str, float]:
    """All that an evaluation of these photos measures, no number twice to three decimals."""
    groups = {"all": list(examples)}
    for example in examples:
        groups.setdefault(example.source, []).append(example)
    found: dict[str, float] = {}
    steps = count(11)
    for protocol in PROTOCOLS:
        for group, own in groups.items():
            found[f"{protocol}/{group}/images"] = len(own)
            for metric in METRICS:
                for variant in variants:
                    key, value = f"{protocol}/{variant}/{group}/{metric}", next(steps) / 250
                    found |= {key: value, f"{key}/low": value - 0.0313, f"{key}/high": value + 0.05}
                for pair in (f"{b}-minus-{a}" for a, b in combinations(variants, 2)):
                    key, value = f"{protocol}/{pair}/{group}/{metric}", next(steps) / 250
                    found |= {key: value, f"{key}/low": value - 0.0313, f"{key}/high": value + 0.05}
                    found[f"{key}/p_value"] = 0.002
    return found


def write_answers(
    folder: Path,
    answers: Mapping[str, Mapping[str, str]],
    *,
    model: str = "made-up",
    groups: Mapping[str, float] | None = None,
) -> Path:
    """Writes a record of answers, by contender and then by question, as `write_evaluation` does."""
    questions = len(next(iter(answers.values())))
    files = _written(folder, f"{model}-answers", answers)
    record = records.new_record(
        "answers",
        model=model,
        variants=list(answers),
        data=records.Data(name="asked", items=questions, fingerprint="sha256:00"),
        numbers={"answers/all/questions": float(questions), **(groups or {})},
        protocol={"types": []},
        files=files,
    )
    return records.write(record, folder / "records")


def write_evaluation(
    folder: Path,
    examples: Sequence[Example],
    captions: Mapping[str, Mapping[str, str]],
    *,
    model: str = "made-up",
    changes: Mapping[str, float | None] | None = None,
    data: str = "fields",
    variants: Iterable[str] = VARIANTS,
) -> Path:
    """Writes a record below `folder`/records with its captions beside, and returns its path.

    `captions` by variant, then by photo; without any the record names no files.
    """
    files = _written(folder, model, captions)
    record = records.new_record(
        "evaluation",
        model=model,
        variants=variants,
        data=records.Data(
            name=data, items=len(examples), fingerprint=f"sha256:{fingerprint(examples)}"
        ),
        numbers={**numbers(examples, list(variants)), **(changes or {})},
        protocol={"seed": 0, "resamples": 1000, "document_frequencies": "held fixed"},
        files=files,
    )
    return records.write(record, folder / "records")


def _written(folder: Path, place: str, said: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The files, as a record names them, of what each variant said."""
    files = {}
    for variant, texts in said.items():
        name = f"evaluations/{place}/{variant}.jsonl"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rows = ({"image": image, "caption": text} for image, text in texts.items())
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[f"predictions/{variant}"] = name
    return files
