"""A record of an evaluation in words: its scores as tables, and what differs between variants."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from qvla.captioning.contenders import title_of
from qvla.evaluation.scores import ALL
from qvla.records.store import Record
from qvla.words import counted

SHOWN = ("CIDEr", "BLEU-4", "ROUGE-L", "METEOR")  # the record has the others too
PROTOCOLS = {
    "standard": "all references, PTB tokens",
    "reported": "one drawn reference, raw strings",
}


def table(record: Record) -> str:
    """All groups under each protocol, then speeds and the verdict on each pair of variants."""
    lines = [heading(record)]
    for name in record.protocol["protocols"]:
        lines += ["", *_protocol(record, name)]
    lines += ["", *speeds(record)]
    lines += [verdict(record, *pair) for pair in combinations(record.variants, 2)]
    return "\n".join(lines)


def heading(record: Record, item: str = "photo") -> str:
    """What was measured on what, on which machine."""
    protocol = record.protocol
    machine = ", ".join(record.hardware.accelerators) or record.hardware.processor
    data = record.data.name if record.data else "no data"
    return (
        f"{record.model} on {protocol['device']} ({machine}), {record.variants[0]} in "
        f"{protocol['precision']}: {counted(record.items, item)} of {data}, {protocol['split']}"
    )


def verdict(
    record: Record,
    first: str,
    second: str,
    name: str | None = None,
    metric: str = "CIDEr",
    items: str = "photos",
) -> str:
    """Whether the two differ in a metric, in one sentence from the paired bootstrap.

    By the protocol `name`: the standard one if the record has it. Raises KeyError for a variant it
    has not.
    """
    if name is None:
        name = "standard" if "standard" in record.protocol["protocols"] else "reported"
    key = f"{name}/{second}-minus-{first}/{ALL}/{metric}"
    value, low, high, chance = (
        record.number(f"{key}{end}") for end in ("", "/low", "/high", "/p_value")
    )
    amount = (
        f"({name} {metric} {value:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, p = {chance:.2g})"
    )
    ours, other = title(record, second), title(record, first)
    if low <= 0 <= high:
        return f"{ours} and {other} cannot be told apart on these {items} {amount}."
    return f"{ours} is {'better' if value > 0 else 'worse'} than {other} {amount}."


def title(record: Record, variant: str) -> str:
    """What a variant is called; records of the three default ones may not say so themselves."""
    contenders = record.protocol.get("contenders", {})
    return contenders.get(variant, {}).get("title", title_of(variant))


def _protocol(record: Record, name: str) -> list[str]:
    metrics = [
        metric
        for metric in SHOWN
        if f"{name}/{record.variants[0]}/{ALL}/{metric}" in record.numbers
    ]
    groups = [ALL, *record.protocol["sources"]]
    rows = [("", "", metrics)]
    for group in groups:
        photos = f"{group}, {record.numbers[f'{name}/{group}/images']:,}"
        for variant in record.variants:
            cells = [cell(record, f"{name}/{variant}/{group}/{metric}") for metric in metrics]
            rows.append((photos, variant, cells))
            photos = ""
    width = max(len(one[0]) for one in rows)
    head = f"{name}: {PROTOCOLS[name]}; 95 % intervals"
    return [head, *(row(*one, width) for one in rows)]


def cell(record: Record, key: str) -> str:
    """A score with its interval."""
    value, low, high = (record.number(f"{key}{end}") for end in ("", "/low", "/high"))
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def row(group: str, variant: str, cells: Sequence[str], width: int) -> str:
    """A line of a table, its first column `width` wide."""
    return f"  {group:{width}}  {variant:8}" + "".join(f"{cell:>25}" for cell in cells)


def speeds(record: Record, item: str = "photo") -> list[str]:
    """How many photos or questions a second each variant did."""
    lines = []
    for variant in record.variants:
        speed = record.numbers.get(f"{variant}/images_per_second")
        if speed is not None:
            made = record.protocol["captioned_now"][variant]
            lines.append(f"{variant}: {counted(made, item)} captioned now, {speed:.1f} a second")
        else:
            lines.append(f"{variant}: captioned before")
    return lines
