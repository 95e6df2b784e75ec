"""Records of sweep runs made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from qvla.bench.sweep_results import WHAT
from qvla.records import store as records

EVALUATION = {"split": "val", "photos": 40, "resamples": 100, "max_new_tokens": 40}


def sweep_run(
    name: str,
    cider: float,
    *,
    parameters: int = 1000,
    seconds: float = 10.0,
    peak: int = 10**8,
    seed: int = 0,
    hour: int = 0,
    model: str = "mini",
    failed: str | None = None,
    **recipe: Any,
) -> records.Kept:
    """A run of a recipe called `name`, such as `lora, rank 4`, whose method stands first."""
    label = f"{name}, seed {seed}"
    own = {"method": name.partition(",")[0], "seed": seed, "data": "fields", **recipe}
    numbers: Mapping[str, float] = {
        "trained_parameters": parameters,
        "saved_bytes": 4 * parameters,
        "train_steps": 0 if name == "base" else 20,
        "train_seconds": 2 * seconds,
        "train_processor_seconds": seconds,
        "train_peak_bytes": peak,
        "CIDEr": cider,
        "CIDEr/low": cider - 0.05,
        "CIDEr/high": cider + 0.07,
    }
    protocol = {"label": label, "key": label, "recipe": own, "evaluation": EVALUATION}
    record = records.Record(
        what=WHAT,
        model=model,
        variants=(label,),
        data=None if failed else records.Data(name="fields", items=40, fingerprint="sha256:0"),
        numbers={} if failed else dict(numbers),
        protocol={**protocol, "device": "cpu", **({"failed": failed} if failed else {})},
        hardware=records.Hardware(
            system="Linux x86_64", processor="Test CPU", cores=2, memory_bytes=8 * 10**9
        ),
        versions={"python": "3.11"},
        commit=None,
        date=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour),
    )
    return records.Kept(Path(f"records/{label.replace(', ', '-').replace(' ', '-')}.json"), record)
