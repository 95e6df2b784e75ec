"""The Latency tab's figures, and the report's hours in the units that they really had."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvla.settings import Settings
from qvla.ui.measured import latency, memory
from qvla.ui.measured.exhibits import entries_table
from qvla.ui.measured.subjects import Subject, find_subjects
from tests.support.measured import (
    BATCHES,
    VARIANTS,
    latency_numbers,
    memory_numbers,
    training_record,
    write_record,
)


def measured_subject(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Subject:
    monkeypatch.setenv("QVLA_RECORDS", str(folder))
    [subject] = find_subjects(Settings(), latency.WHATS)[0]
    return subject


def test_the_reports_hours_are_converted_and_marked() -> None:
    """1:39:46 and 1:54:31 are hours, minutes and seconds; 2.51 are decimal hours."""
    told = latency.hours(None)
    hours = {(e.quantity, e.variant): e for e in told if e.kind == "reported"}
    entries = {(e.quantity, e.variant): e for e in told if e.kind == "corrected"}
    printed = [hours["Captioning 4,454 photos", name] for name in VARIANTS]
    assert [(one.value, one.kind) for one in printed] == [
        (2.51, "reported"),
        (1.39, "reported"),
        (1.54, "reported"),
    ]
    seconds = [entries["Captioning 4,454 photos", name] for name in VARIANTS]
    clock = [2.51 * 3600, 1 * 3600 + 39 * 60 + 46, 1 * 3600 + 54 * 60 + 31]
    assert [one.value for one in seconds] == pytest.approx(clock, abs=11)
    assert {one.kind for one in seconds} == {"corrected"}
    rates = [entries["Captioning, images a second", name] for name in VARIANTS]
    assert [one.value for one in rates] == pytest.approx([0.492, 0.744, 0.648], abs=5e-4)
    assert {one.kind for one in rates} == {"corrected"}
    assert entries["Training, images a second", "qvla"].value == pytest.approx(35614 / 34972.36)
    assert ("Training, images a second", "base") not in entries  # it was never trained
    assert hours["Training 35,614 photos", "base"].value == 12
    assert {e.kind for e in told} == {"reported", "corrected"}


@pytest.mark.parametrize("stop", ["natural", "fixed"])
def test_measured_times_are_the_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: str
) -> None:
    numbers = latency_numbers()
    kept = write_record(tmp_path, "bench/latency", numbers)
    subject = measured_subject(monkeypatch, tmp_path)
    names = {
        "First token": "first_token_seconds",
        "Each further token": "token_seconds",
        "Tokens a caption": "tokens",
    }
    entries = latency.first_and_further(subject, stop)
    for entry in entries:
        if entry.quantity == "Floor of a token":
            assert entry.value == numbers[f"{entry.variant}/floor_token_seconds"]
            continue
        name = f"{entry.variant}/{stop}/batch_1/{names[entry.quantity]}"
        assert entry.value == numbers[name]
        assert entry.low == numbers.get(f"{name}/lowest")
        assert entry.high == numbers.get(f"{name}/highest")
        assert (entry.kind, entry.record) == ("measured", kept.path.stem)
    assert len(entries) == 4 * len(VARIANTS)
    assert [(e.quantity, e.variant, e.value) for e in latency.throughput(subject, stop)] == [
        (f"Batch {size}", name, numbers[f"{name}/{stop}/batch_{size}/images_per_second"])
        for size in BATCHES
        for name in VARIANTS
    ]


def test_measured_speed_stands_beside_the_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    numbers = latency_numbers()
    write_record(tmp_path, "bench/latency", numbers, hour=1)
    training_record(tmp_path, hour=2)
    subject = measured_subject(monkeypatch, tmp_path)
    measured = {
        (e.quantity, e.variant): e.value for e in latency.hours(subject) if e.kind == "measured"
    }
    rate = numbers["qvla/natural/batch_32/images_per_second"]
    assert measured["Captioning, images a second", "qvla"] == rate
    assert measured["Captioning 4,454 photos", "qvla"] == pytest.approx(4454 / rate)
    assert measured["Training, images a second", "adapter"] == 44.5
    assert measured["Training 35,614 photos", "adapter"] == pytest.approx(35614 / 44.5)

    # the report suite measures what its table asks for, and so comes first
    own = {"table_2/qvla/inference_images_per_second": 91.5}
    write_record(tmp_path, "bench/report", own, hour=3)
    subject = measured_subject(monkeypatch, tmp_path)
    measured = {
        (e.quantity, e.variant): e.value for e in latency.hours(subject) if e.kind == "measured"
    }
    assert measured["Captioning, images a second", "qvla"] == 91.5
    assert measured["Captioning, images a second", "base"] == pytest.approx(
        numbers["base/natural/batch_32/images_per_second"]
    )


def test_only_what_was_measured_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = {"qvla/fixed/batch_8/first_token_seconds": 0.5, "qvla/fixed/batch_8/tokens": 20}
    write_record(tmp_path, "bench/latency", numbers)
    subject = measured_subject(monkeypatch, tmp_path)
    assert latency.first_and_further(subject, "natural") == []
    assert [(e.quantity, e.variant) for e in latency.first_and_further(subject, "fixed")] == [
        ("First token", "qvla"),
        ("Tokens a caption", "qvla"),
    ]
    assert latency.throughput(subject, "fixed") == []


def test_any_contender_has_its_times_and_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def of(numbers: dict[str, float]) -> dict[str, float]:
        return {name.replace("adapter/", "lora-16/"): value for name, value in numbers.items()}

    titles = {"base": "Base", "lora-16": "LoRA, rank 16"}
    times, sizes = of(latency_numbers()), of(memory_numbers())
    write_record(tmp_path, "bench/latency", times, titles=titles)
    write_record(tmp_path, "bench/memory", sizes, titles=titles)
    monkeypatch.setenv("QVLA_RECORDS", str(tmp_path))
    [subject] = find_subjects(Settings(), (*latency.WHATS, *memory.WHATS))[0]
    assert list(subject.titles) == ["base", "adapter", "qvla", "lora-16"]
    entries = latency.throughput(subject, "natural")
    assert {e.value for e in entries if e.variant == "lora-16"} == {
        times[f"lora-16/natural/batch_{batch}/images_per_second"] for batch in BATCHES
    }
    loaded = {e.variant: e.value for e in memory.holding(subject)}
    assert loaded["lora-16"] == sizes["lora-16/captioning_peak_bytes"]
    told = {e.variant for e in memory.against(subject) if e.kind == "reported"}
    assert told == set(VARIANTS)  # the report's own stay those of its three
    table = entries_table(entries, str, subject.titles, first="x", caption="x")
    assert "LoRA, rank 16" in table
