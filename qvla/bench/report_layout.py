"""The report's tables and its figure as text: reported, corrected and measured side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qvla.captioning.contenders import TITLES, VARIANTS
from qvla.records.reported import reported
from qvla.records.store import Record

PROTOCOLS = {"reported": "one reference, raw strings", "standard": "all references, PTB tokens"}
CURVES = ("training_seconds", "training_bytes")
POINTS = 10  # of a curve of Figure 3 that are printed, after the first

ABSENT = "–"
PRINTED = 6  # digits enough for every figure that the report prints
WIDTHS = (42, 16, 20)  # of the label, the reported and the corrected column


def layout(record: Record) -> str:
    """The record beside the report, as text."""
    said = reported()
    machine = ", ".join(record.hardware.accelerators) or record.hardware.processor
    protocol = record.protocol
    lines = [
        f"Reported: {said['model']} on {said['hardware']}, each figure of one run.",
        "Corrected: what the report's own notebooks show, seconds as images a second.",
        f"Measured: {record.model} in {protocol['precision']} and nf4 on {protocol['device']} "
        f"({machine}).",
        f"{ABSENT}: not there. GB are 10^9 bytes.",
    ]
    for title, rows in (
        ("Table I. Parameters", _table_1(said, record.numbers)),
        ("Table II. Memory and speed", _table_2(said, record.numbers)),
        ("Table III. CIDEr", _table_3(said, record.numbers)),
    ):
        lines += ["", _row(title, "reported", "corrected", "measured")]
        lines += [_row(*row) for row in rows]
    lines += ["", "Figure 3. Memory held in training, GB, from the first step to the last"]
    lines += _figure_3(record) or [f"  {ABSENT}"]
    lines += ["", *_notes(said, protocol)]
    return "\n".join(lines)


Row = tuple[str, str, str, str]  # label, reported, corrected, measured


def _table_1(said: Mapping[str, Any], numbers: Mapping[str, float | None]) -> list[Row]:
    return [
        (label, f"{said['table_1'][key]:,}", ABSENT, f"{numbers[f'table_1/{key}']:,}")
        for label, key in (
            ("Adapter parameters", "adapter_parameters"),
            ("Full parameters", "full_parameters"),
            ("Adapter, percent", "adapter_percent"),
        )
    ]


def _table_2(said: Mapping[str, Any], numbers: Mapping[str, float | None]) -> list[Row]:
    rows = []
    photos = {
        "inference": said["images"]["test"],
        "training": said["images"]["train"] * said["training"]["epochs"],
    }
    for variant in VARIANTS:
        printed, right = said["table_2"][variant], said["table_2_corrected"][variant]
        for label, name in (("memory loaded", "load"), ("peak in training", "training")):
            rows.append(
                (
                    f"{TITLES[variant]}, {label}",
                    _told(printed.get(f"{name}_gb"), "GB", PRINTED),
                    _told(right.get(f"{name}_gb"), "GB", PRINTED),
                    _told(_gigabytes(numbers.get(f"table_2/{variant}/{name}_bytes")), "GB"),
                )
            )
        for label, name in (("captioning", "inference"), ("training", "training")):
            seconds = right.get(f"{name}_seconds")
            measured = f"table_2/{variant}/{name}_images_per_second"
            rows.append(
                (
                    f"{TITLES[variant]}, {label}",
                    _told(printed.get(f"{name}_hours"), "h", PRINTED),
                    _told(None if seconds is None else photos[name] / seconds, "images/s"),
                    _told(numbers.get(measured), "images/s")
                    + _range(numbers, measured, "lowest", "highest"),
                )
            )
    return rows


def _table_3(said: Mapping[str, Any], numbers: Mapping[str, float | None]) -> list[Row]:
    rows = []
    for protocol, words in PROTOCOLS.items():
        for variant in VARIANTS:
            printed = said["table_3_cider"][variant] if protocol == "reported" else None
            told = _told(printed, digits=PRINTED)
            name = f"table_3/{variant}/{protocol}_CIDEr"
            measured = _told(numbers.get(name)) + _range(numbers, name, "low", "high")
            rows.append((f"{TITLES[variant]}, {words}", told, ABSENT, measured))
    return rows


def _figure_3(record: Record) -> list[str]:
    lines = []
    for variant in record.variants:
        seconds, held = (record.series.get(f"{variant}/{curve}") for curve in CURVES)
        if not seconds or not held:
            continue
        last = len(seconds) - 1
        points = sorted({round(last * point / POINTS) for point in range(POINTS + 1)})
        lines.append(
            f"  {TITLES[variant]}: at "
            + ", ".join(f"{seconds[at]:.4g} s {held[at] / 1e9:.4g}" for at in points)
        )
    return lines


def _notes(said: Mapping[str, Any], protocol: Mapping[str, Any]) -> list[str]:
    notes = list(said["notes"].values())
    if sizes := protocol.get("captioning_batch_sizes"):
        batches = ", ".join(f"{TITLES[name]} {size}" for name, size in sizes.items())
        notes.append(
            f"Captioning was measured in batches ({batches}) with {protocol['captioning_tokens']} "
            "tokens a caption."
        )
    if evaluated := protocol.get("evaluated"):
        notes.append(f"CIDEr was measured on {evaluated}; intervals are of 95 %.")
    if sources := protocol.get("records"):
        kept = ", ".join(f"{part} {stem}" for part, stem in sources.items())
        notes.append(f"Measured in the records: {kept}.")
    return [f"- {note}" for note in notes]


def _row(label: str, *cells: str) -> str:
    printed, right, measured = cells
    first, second, third = WIDTHS
    return f"{label:{first}}{printed:>{second}}{right:>{third}}   {measured}"


def _told(value: float | None, unit: str = "", digits: int = 4) -> str:
    return ABSENT if value is None else f"{value:.{digits}g} {unit}".rstrip()


def _range(numbers: Mapping[str, float | None], name: str, low: str, high: str) -> str:
    ends = [numbers.get(f"{name}/{end}") for end in (low, high)]
    return "" if None in ends else f" ({ends[0]:.4g} to {ends[1]:.4g})"


def _gigabytes(size: float | None) -> float | None:
    return None if size is None else size / 1e9
