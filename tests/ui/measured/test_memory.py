"""The Memory tab's figures and planner: what the records and the report hold, no more, no less."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.models.architectures import PALIGEMMA_3B
from qvla.planning.planner import plan
from qvla.settings import EMBEDDED_MODEL, Settings
from qvla.ui.measured import memory, planner
from qvla.ui.measured.subjects import Subject, find_subjects
from qvla.ui.tables import write_csv
from tests.support.measured import TRAINED, VARIANTS, memory_numbers, training_record, write_record
from tests.support.serving import served

FIELDS = ("qvla", "training", 4, "", "", "adamw_torch", False)


def measured_subject(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Subject:
    monkeypatch.setenv("QVLA_RECORDS", str(folder))
    [subject] = find_subjects(Settings(), memory.WHATS)[0]
    return subject


def found(entries, quantity: str, kind: str) -> dict[str, tuple[float, str]]:
    return {
        one.variant: (one.value, one.record)
        for one in entries
        if (one.quantity, one.kind) == (quantity, kind)
    }


def test_without_records_there_is_the_report_alone() -> None:
    assert memory.holding(None) == memory.training(None) == memory.curves(None) == []
    entries = memory.against(None)
    assert {(e.quantity, e.variant, e.kind, e.value) for e in entries} == {
        ("Loaded", "base", "reported", 11.5e9),
        ("Loaded", "adapter", "reported", 11.5e9),
        ("Loaded", "qvla", "reported", 2.8e9),
        ("Training, mean", "adapter", "reported", 39e9),
        ("Training, mean", "qvla", "reported", 15.5e9),
    }
    assert memory.shares(None, "parts") == [] and memory.foreseen(None) == []


def test_measured_figures_are_the_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = memory_numbers()
    own = write_record(tmp_path, "bench/memory", numbers, hour=2).path.stem
    training = training_record(tmp_path, hour=1)
    subject = measured_subject(monkeypatch, tmp_path)
    held = memory.holding(subject)
    for quantity, name in (
        ("Loaded", "loaded_bytes"),
        ("Loading, peak", "loading_peak_bytes"),
        ("Captioning, peak", "captioning_peak_bytes"),
    ):
        expected = {variant: (numbers[f"{variant}/{name}"], own) for variant in VARIANTS}
        assert found(held, quantity, "measured") == expected
    trained = memory.training(subject)
    series = training.record.series
    for variant in TRAINED:
        sizes = series[f"{variant}/training_bytes"]
        mean, record = found(trained, "Mean", "measured")[variant]
        assert mean == pytest.approx(sum(sizes) / len(sizes)) and record == training.path.stem
        # of a whole training rather than of the memory suite's few steps
        peak = training.record.numbers[f"{variant}/peak_bytes"]
        assert found(trained, "Peak", "measured")[variant] == (peak, training.path.stem)
    assert {one.kind for one in [*held, *trained, *memory.curves(subject)]} == {"measured"}
    both = memory.against(subject)
    assert found(both, "Loaded", "measured") == found(held, "Loaded", "measured")
    assert found(both, "Training, mean", "measured") == found(trained, "Mean", "measured")
    assert found(both, "Loaded", "reported")["qvla"] == (2.8e9, "")
    shares = memory.shares(subject, "parts")
    assert {(one.quantity, one.variant): one.value for one in shares} == {
        (part.replace("_", " "), variant): numbers[f"{variant}/parts/{part}_bytes"]
        for part in ("vision_tower", "language_model")
        for variant in VARIANTS
    }
    assert [one.quantity for one in memory.shares(subject, "dtypes")] == ["bfloat16"] * 3
    foreseen = memory.foreseen(subject)
    assert {one.quantity for one in foreseen} == {"Weights", "Training, peak"}
    planned = found(foreseen, "Training, peak", "planned")
    assert planned == {
        variant: (numbers[f"{variant}/planned_training_peak_bytes"], own) for variant in TRAINED
    }


def test_curves_are_drawn_and_written_point_by_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = training_record(tmp_path)
    subject = measured_subject(monkeypatch, tmp_path)
    series = kept.record.series
    curves = {one.variant: one for one in memory.curves(subject)}
    for variant in TRAINED:
        curve = curves[variant]
        assert curve.x == series[f"{variant}/training_seconds"]
        assert [y * 1e9 for y in curve.y] == pytest.approx(series[f"{variant}/training_bytes"])
    path = write_csv("curves", memory.CURVE_COLUMNS, memory.curve_rows(subject))
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for variant in TRAINED:
        own = [row for row in rows if (row["quantity"], row["variant"]) == ("Curve", variant)]
        assert tuple(float(row["bytes"]) for row in own) == series[f"{variant}/training_bytes"]
        assert {row["record"] for row in own} == {kept.path.stem}


def test_the_report_suite_stands_in_where_nothing_else_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    numbers = {"table_2/qvla/load_bytes": 1.7e9, "table_2/qvla/training_bytes": 5.5e9}
    report = write_record(tmp_path, "bench/report", numbers, hour=4)
    subject = measured_subject(monkeypatch, tmp_path)
    stem = report.path.stem
    assert found(memory.holding(subject), "Loaded", "measured") == {"qvla": (1.7e9, stem)}
    assert found(memory.training(subject), "Peak", "measured") == {"qvla": (5.5e9, stem)}


# ---- the planner ---------------------------------------------------------------------------------


def test_the_form_says_what_the_planner_says() -> None:
    for model in (str(EMBEDDED_MODEL), PALIGEMMA_3B):
        fields = (model, "adapter", "training", 8.0, " 64 ", "30", "adamw_8bit", True)
        expected = plan(
            model,
            "adapter",
            task="training",
            batch_size=8,
            image_tokens=64,
            text_tokens=30,
            optimiser="adamw_8bit",
            gradient_checkpointing=True,
        )
        assert planner.plan_for(*fields, embeddings_8bit=False) == expected
    assert planner.plan_for(PALIGEMMA_3B, *FIELDS, embeddings_8bit=True) == plan(
        PALIGEMMA_3B, "qvla", task="training", batch_size=4, embeddings_8bit=True
    )
    page = planner.render_plan(expected)
    assert f"{expected.total / 1e9:.2f} GB" in page
    for name, _, fit in expected.fits:
        word = "fits" if fit else "too small"
        assert f"<b>{name}</b> <span>{word}</span>" in page


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (2, 0, "batch size must be a whole number from 1"),
        (2, None, "batch size must be"),
        (2, 2.5, "batch size must be"),
        (3, "many", "number of image tokens must be"),
        (4, "-3", "number of text tokens must be"),
        (0, "cleverer", "There is no variant 'cleverer'"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(place: int, value: object, sentence: str) -> None:
    fields = [*FIELDS]
    fields[place] = value
    with pytest.raises(QvlaError, match=sentence):
        planner.plan_for(str(EMBEDDED_MODEL), *fields, embeddings_8bit=True)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    gate = threading.Event()
    loader = LineupLoader(lambda progress: gate.wait()).start()  # the planner needs no weights
    with served(Settings(device="cpu"), loader) as address:
        yield Client(address, verbose=False, ssl_verify=False)
        gate.set()


def test_programs_can_plan(client: Client) -> None:
    answer = client.predict(PALIGEMMA_3B, "qvla", api_name="/plan")
    expected = plan(PALIGEMMA_3B, "qvla", task="training", batch_size=4, embeddings_8bit=True)
    assert answer["total_bytes"] == expected.total
    assert answer["weights_bytes"] == expected.weights
    assert answer["fits"] == {gpu: fit for gpu, _, fit in expected.fits}
    with pytest.raises(AppError, match="batch size must be") as caught:
        client.predict(PALIGEMMA_3B, "qvla", "training", 0, api_name="/plan")
    assert "Traceback" not in str(caught.value)
    with pytest.raises(AppError):  # nothing is fetched on a visitor's behalf
        client.predict("someone/other-model", "qvla", api_name="/plan")
