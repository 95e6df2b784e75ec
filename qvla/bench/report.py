"""The report suite: Tables I to III and Figure 3 of the report, beside what is measured here.

Three columns never mix. `reported` is what the report prints, `corrected` what its own notebooks
show (converted to images a second, which is arithmetic on reported figures), and `measured` what
this machine did. What was not measured is a dash. The record holds the measured figures alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from pydantic import JsonValue

from qvla.bench import arrangements
from qvla.bench.arrangements import BenchError
from qvla.bench.report_layout import CURVES, PROTOCOLS, layout
from qvla.bench.suites import SUITES
from qvla.captioning.contenders import VARIANTS
from qvla.models import params
from qvla.records import store as records
from qvla.records.store import Kept, Record
from qvla.settings import Settings

PARTS = ("loading", "captioning", "training")
STOP = "fixed"  # equal work for all variants, whatever the model says


@dataclass
class Measured:
    """What was measured so far, and the records (by file stem) that it came from."""

    numbers: dict[str, int | float | None] = field(default_factory=dict)
    series: dict[str, tuple[float, ...]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    said: dict[str, JsonValue] = field(default_factory=dict)  # for the protocol

    def take(self, record: Record, name: str, own_name: str, ends: Sequence[str] = ()) -> None:
        """Copies a number, and the ends of its range, where the record has them."""
        for end in ("", *(f"/{end}" for end in ends)):
            value = record.numbers.get(name + end)
            if value is not None:
                self.numbers[own_name + end] = value


def run(options: argparse.Namespace, settings: Settings) -> tuple[str, Record]:
    """The suite as `qvla bench` runs it: its tables and its record.

    `options.parts` may name some of `PARTS`, separated by commas; the others are left out, so that
    a machine that cannot caption or train at full size still counts parameters and bytes. The
    records of the suites that it runs are written beside its own.
    """
    parts = chosen_parts(getattr(options, "parts", None))
    settings = arrangements.made_explicit(settings)
    measured = Measured()
    count_parameters(measured, settings.model)
    takers = {
        "loading": ("memory", take_memory),
        "captioning": ("latency", take_latency),
        "training": ("training", take_training),
    }
    for part in parts:
        suite, take = takers[part]
        # The memory suite measures all parts, of which only its first is wanted.
        given = argparse.Namespace(**vars(options) | {"parts": part})
        _, record = import_module(SUITES[suite].module).run(given, settings)
        measured.sources[part] = records.write(record, options.records).stem
        take(measured, record)
    model = settings.model_name
    folders = dict.fromkeys((records.SHIPPED, settings.records, Path(options.records)))
    evaluation = newest_evaluation(model, folders)
    if evaluation is not None:
        measured.sources["evaluation"] = evaluation.path.stem
        take_evaluation(measured, evaluation.record)
    record = records.new_record(
        "bench/report",
        model=model,
        variants=VARIANTS,
        data=None,  # that of each part is in its own record
        numbers=measured.numbers,
        series=measured.series,
        protocol={
            "parts": list(parts),
            "records": dict(measured.sources),
            **measured.said,
            "device": settings.device,
            "precision": settings.precision,
            "threads": torch.get_num_threads(),
        },
    )
    return layout(record), record


def chosen_parts(named: str | None) -> tuple[str, ...]:
    """The parts of a comma-separated list, which may be empty; None means all of them."""
    if named is None:
        return PARTS
    names = {name.strip() for name in named.split(",")} - {""}
    unknown = sorted(names.difference(PARTS))
    if unknown:
        raise BenchError(f"The report has the parts {', '.join(PARTS)}, not {unknown[0]!r}.")
    return tuple(part for part in PARTS if part in names)


def count_parameters(measured: Measured, model: str) -> None:
    """Table I, counted on the architecture; needs no weights."""
    counts = params.report(model)
    measured.numbers |= {
        "table_1/adapter_parameters": counts["adapter_params"],
        "table_1/full_parameters": counts["full_params"],
        "table_1/adapter_percent": counts["adapter_percent"],
    }


def take_memory(measured: Measured, record: Record) -> None:
    """Table II's loading memory, from a record of the memory suite."""
    for variant in VARIANTS:
        measured.take(record, f"{variant}/loaded_bytes", f"table_2/{variant}/load_bytes")


def take_latency(measured: Measured, record: Record) -> None:
    """Table II's captioning, at the largest batch that a variant managed."""
    used = {}
    for variant in VARIANTS:
        for batch in sorted(record.protocol["batch_sizes"], reverse=True):
            name = f"{variant}/{STOP}/batch_{batch}/images_per_second"
            if name in record.numbers:
                own_name = f"table_2/{variant}/inference_images_per_second"
                measured.take(record, name, own_name, ("lowest", "highest"))
                used[variant] = batch
                break
    measured.said["captioning_batch_sizes"] = used
    measured.said["captioning_tokens"] = record.protocol["new_tokens"]


def take_training(measured: Measured, record: Record) -> None:
    """Table II's training, and the curves of Figure 3."""
    for variant in VARIANTS:
        stem = f"table_2/{variant}"
        measured.take(record, f"{variant}/peak_bytes", f"{stem}/training_bytes")
        measured.take(
            record,
            f"{variant}/images_per_second",
            f"{stem}/training_images_per_second",
            ("lowest", "highest"),
        )
        for name in (f"{variant}/{curve}" for curve in CURVES):
            if name in record.series:
                measured.series[name] = record.series[name]


def newest_evaluation(model: str, folders: Iterable[str | Path]) -> Kept | None:
    """The last evaluation of this model, wherever it was made."""
    kept = [one for one in records.find("evaluation", folders) if one.record.model == model]
    return kept[-1] if kept else None


def take_evaluation(measured: Measured, record: Record) -> None:
    """Table III, from a record of an evaluation of all its photos."""
    for variant in VARIANTS:
        for protocol in PROTOCOLS:
            name = f"{protocol}/{variant}/all/CIDEr"
            measured.take(record, name, f"table_3/{variant}/{protocol}_CIDEr", ("low", "high"))
    photos = "" if record.data is None else f"{record.data.items:,} photos of {record.data.name}"
    split = record.protocol.get("split")
    measured.said["evaluated"] = photos + (f", split {split}" if split else "")
