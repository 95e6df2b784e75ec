"""Records for tests of the tabs: made-up figures, every one different, so that none can stand for
another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from qvla.records import store as records

VARIANTS = ("base", "adapter", "qvla")
TRAINED = ("adapter", "qvla")
PARTS = ("vision_tower", "language_model")
BATCHES = (1, 8, 32)
START = datetime(2026, 1, 1, tzinfo=UTC)


def write_record(
    folder: Path,
    what: str,
    numbers: Mapping[str, float],
    *,
    series: Mapping[str, Sequence[float]] | None = None,
    model: str = "mini",
    accelerator: str = "",
    hour: int = 0,
    titles: Mapping[str, str] | None = None,
) -> records.Kept:
    """Writes a record that was measured so many hours after the new year.

    It is of the default three, or else of the contenders of these titles.
    """
    hardware = records.Hardware(
        system="Linux x86_64",
        processor="Test CPU",
        cores=2,
        memory_bytes=8 * 10**9,
        accelerators=(accelerator,) if accelerator else (),
    )
    record = records.Record(
        what=what,
        model=model,
        variants=VARIANTS if titles is None else tuple(titles),
        data=None,
        numbers=dict(numbers),
        series={name: tuple(values) for name, values in (series or {}).items()},
        protocol={
            "device": "cuda:0" if accelerator else "cpu",
            "contenders": {name: {"title": title} for name, title in (titles or {}).items()},
        },
        hardware=hardware,
        versions={"python": "3.11"},
        commit=None,
        date=START + timedelta(hours=hour),
    )
    return records.Kept(records.write(record, folder), record)


def memory_numbers(scale: float = 1.0) -> dict[str, int]:
    """Like those of the memory suite on the 3B model; times `scale`."""
    numbers: dict[str, float] = {}
    for place, variant in enumerate(VARIANTS):
        size = (6e9, 6.1e9, 2.2e9)[place]
        numbers |= {
            f"{variant}/weights_bytes": size,
            f"{variant}/planned_weights_bytes": size * 1.013,
            f"{variant}/loaded_bytes": size * 1.021,
            f"{variant}/loading_peak_bytes": size * 1.103,
            f"{variant}/captioning_peak_bytes": size * 1.207,
            f"{variant}/dtypes/bfloat16_bytes": size,
        }
        for part, share in zip(PARTS, (0.241, 0.759), strict=True):
            numbers[f"{variant}/parts/{part}_bytes"] = size * share
        if variant in TRAINED:
            numbers[f"{variant}/training_peak_bytes"] = size * 1.611
            numbers[f"{variant}/planned_training_peak_bytes"] = size * 1.739
    return {name: round(value * scale) for name, value in numbers.items()}


def training_record(folder: Path, **where: object) -> records.Kept:
    """Of both variants that train, with curves of 40 points."""
    numbers, series = {}, {}
    for variant, peak, rate in (("adapter", 9_100_000_000, 44.5), ("qvla", 5_300_000_000, 27.25)):
        numbers |= {f"{variant}/peak_bytes": peak, f"{variant}/images_per_second": rate}
        series[f"{variant}/training_seconds"] = [0.5 * point for point in range(40)]
        series[f"{variant}/training_bytes"] = [
            peak * (0.6 if point % 4 == 0 else 0.95) for point in range(40)
        ]
    return write_record(folder, "bench/training", numbers, series=series, **where)


def latency_numbers() -> dict[str, float]:
    """Of three batch sizes and both ways to stop, with the range of turns."""
    numbers: dict[str, float] = {}
    for place, variant in enumerate(VARIANTS):
        numbers[f"{variant}/floor_token_seconds"] = 0.00123 * (3 - place)
        for stop, longer in (("natural", 1.0), ("fixed", 1.31)):
            for batch in BATCHES:
                key = f"{variant}/{stop}/batch_{batch}"
                for name, value in (
                    ("first_token_seconds", 0.0311 * longer * batch**0.6 * (1 + place / 7)),
                    ("token_seconds", 0.0104 * longer * batch**0.1 * (1 + place / 9)),
                    ("images_per_second", 4.4 / longer * batch**0.8 / (1 + place / 5)),
                ):
                    numbers[f"{key}/{name}"] = value
                    numbers[f"{key}/{name}/lowest"] = value * 0.93
                    numbers[f"{key}/{name}/highest"] = value * 1.12
                numbers[f"{key}/tokens"] = 20.0 if stop == "fixed" else 11.5 + place
    return numbers
