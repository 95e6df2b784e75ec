from __future__ import annotations

import json
from argparse import Namespace
from datetime import timedelta
from pathlib import Path

import pytest

from qvla.bench import report, report_layout
from qvla.bench.random_weights import write_checkpoint
from qvla.captioning.contenders import VARIANTS
from qvla.errors import QvlaError
from qvla.records import store as records
from qvla.records.store import Record, new_record
from qvla.settings import ASSETS, Settings, load_settings
from tests.support.alone import photos

REPORTED = json.loads((ASSETS / "reported.json").read_text())
FULL = "google/paligemma-3b-pt-224"


def options(folder: Path, **given: object) -> Namespace:
    small = {"photos": 2, "repeats": 1, "new_tokens": 3, "batch_sizes": [1, 2], "variant": None}
    return Namespace(records=folder, **small | given)


def cells(text: str, label: str) -> list[str]:
    """The reported, the corrected and the measured cell of every row with this label."""
    first, second, third = report_layout.WIDTHS
    places = (first, first + second, first + second + third)
    rows = [line for line in text.splitlines() if line[:first].rstrip() == label]
    return [
        cell
        for row in rows
        for cell in (
            row[places[0] : places[1]].strip(),
            row[places[1] : places[2]].strip(),
            row[places[2] :].strip(),
        )
    ]


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = ["source,split,image,caption_1"]
    for index, photo in enumerate(photos(2)):
        photo.save(folder / f"{index}.png")
        rows.append(f"here,test,{index}.png,a caption")
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def random_settings(tiny_checkpoint: Path, tmp_path: Path) -> Settings:
    made = write_checkpoint(str(tiny_checkpoint), tmp_path)
    return load_settings(**made, device="cpu", precision="fp32")


def made(what: str, model: str = "some-model", **given: object) -> Record:
    rest = {"variants": VARIANTS, "data": None, "numbers": {}, "protocol": {}}
    return new_record(what, model=model, **rest | given)


def test_the_full_size_needs_no_weights_for_what_is_reported_and_counted(tmp_path: Path) -> None:
    settings = load_settings(model=FULL, device="cpu")
    text, record = report.run(options(tmp_path, parts=""), settings)
    for label, key in (
        ("Adapter parameters", "adapter_parameters"),
        ("Full parameters", "full_parameters"),
        ("Adapter, percent", "adapter_percent"),
    ):
        figure = REPORTED["table_1"][key]
        assert record.numbers[f"table_1/{key}"] == figure
        assert cells(text, label) == [f"{figure:,}", "–", f"{figure:,}"]
    assert set(record.numbers) == {f"table_1/{key}" for key in REPORTED["table_1"]}
    assert (record.what, record.model) == ("bench/report", FULL)
    assert all(note in text for note in REPORTED["notes"].values())
    assert not list(tmp_path.iterdir())  # no part was run


def test_reported_and_corrected_figures_stand_as_they_are(tmp_path: Path) -> None:
    settings = load_settings(model=FULL, device="cpu")
    text, _ = report.run(options(tmp_path, parts=""), settings)
    assert cells(text, "Adapter, captioning") == ["1.39 h", f"{4454 / 5986.86:.4g} images/s", "–"]
    assert cells(text, "QVLA, training") == ["9.42 h", f"{35614 / 34972.36:.4g} images/s", "–"]
    assert cells(text, "Base, training") == ["12 h", "–", "–"]
    assert cells(text, "Base, peak in training") == ["–", "–", "–"]
    for variant, title in (("base", "Base"), ("adapter", "Adapter"), ("qvla", "QVLA")):
        loaded = f"{REPORTED['table_2'][variant]['load_gb']} GB"
        assert cells(text, f"{title}, memory loaded") == [loaded, loaded, "–"]
        score = str(REPORTED["table_3_cider"][variant])
        assert cells(text, f"{title}, one reference, raw strings") == [score, "–", "–"]
        assert cells(text, f"{title}, all references, PTB tokens") == ["–", "–", "–"]


@pytest.mark.slow
def test_captioning_is_what_the_latency_suite_measured(
    random_settings: Settings, photo_folder: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "records"
    given = options(kept, parts="captioning", data=photo_folder)
    text, record = report.run(given, random_settings)
    [latency] = records.find("bench/latency", [kept])
    assert record.protocol["records"] == {"captioning": latency.path.stem}
    for variant, title in (("base", "Base"), ("adapter", "Adapter"), ("qvla", "QVLA")):
        name = f"table_2/{variant}/inference_images_per_second"
        source = f"{variant}/fixed/batch_2/images_per_second"
        for end in ("", "/lowest", "/highest"):
            assert record.numbers[name + end] == latency.record.numbers[source + end]
        assert cells(text, f"{title}, captioning")[2].startswith(f"{record.numbers[name]:.4g} ima")
    assert "batches (Base 2, Adapter 2, QVLA 2) with 3 tokens" in text
    assert not any("load_bytes" in name or "training" in name for name in record.numbers)


def test_parts_go_to_their_places() -> None:
    memory = made("bench/memory", numbers={"base/loaded_bytes": 5_850_000_000, "base/x_bytes": 1})
    training = made(
        "bench/training",
        numbers={"qvla/peak_bytes": 5_900_000_000, "qvla/images_per_second": 31.25},
        series={
            "qvla/training_seconds": [second / 2 for second in range(21)],
            "qvla/training_bytes": [2e9 + second * 1e8 for second in range(21)],
        },
    )
    latency = made(
        "bench/latency",
        numbers={
            "base/fixed/batch_1/images_per_second": 2.0,
            "base/fixed/batch_8/images_per_second": 9.0,
            "base/natural/batch_32/images_per_second": 99.0,
            "qvla/fixed/batch_1/images_per_second": 3.0,
        },
        protocol={"batch_sizes": [1, 8, 32], "new_tokens": 12},
    )
    measured = report.Measured()
    report.count_parameters(measured, FULL)
    report.take_memory(measured, memory)
    report.take_latency(measured, latency)
    report.take_training(measured, training)
    rest = {name: value for name, value in measured.numbers.items() if "table_1" not in name}
    assert rest == {
        "table_2/base/load_bytes": 5_850_000_000,
        "table_2/base/inference_images_per_second": 9.0,
        "table_2/qvla/inference_images_per_second": 3.0,
        "table_2/qvla/training_bytes": 5_900_000_000,
        "table_2/qvla/training_images_per_second": 31.25,
    }
    assert measured.series == training.series
    text = report_layout.layout(
        made(
            "bench/report",
            numbers=measured.numbers,
            series=measured.series,
            protocol={"precision": "bf16", "device": "cuda", **measured.said},
        )
    )
    assert cells(text, "Base, memory loaded") == ["11.5 GB", "11.5 GB", "5.85 GB"]
    assert cells(text, "QVLA, peak in training") == ["15.5 GB", "–", "5.9 GB"]
    assert cells(text, "QVLA, training")[2] == "31.25 images/s"
    assert cells(text, "Base, captioning")[2] == "9 images/s"
    [curve] = [line for line in text.splitlines() if line.startswith("  QVLA: at")]
    assert curve.startswith("  QVLA: at 0 s 2, 1 s 2.2, 2 s 2.4,")
    assert curve.endswith(" 10 s 4")


def test_cider_is_that_of_the_newest_evaluation_of_the_same_model(
    random_settings: Settings, tmp_path: Path
) -> None:
    own = Path(random_settings.model).name
    kept = tmp_path / "records"
    names = ("reported/qvla/all/CIDEr", "standard/base/all/CIDEr")

    def evaluation(model: str, value: float, days: int) -> Record:
        numbers = {name + end: value for name in names for end in ("", "/low", "/high")}
        data = records.Data(name="RISC", items=1234, fingerprint="sha256:0")
        one = made(
            "evaluation", model, numbers=numbers, data=data, protocol={"split": "val", "limit": 0}
        )
        return one.model_copy(update={"date": one.date + timedelta(days=days)})

    old, newest, other = (
        evaluation(*row) for row in ((own, 0.25, 0), (own, 0.5, 1), ("another", 0.75, 2))
    )
    records.write(newest, kept)
    for one in (old, other):
        records.write(one, kept)
    text, record = report.run(options(kept, parts=""), random_settings)
    assert record.numbers["table_3/qvla/reported_CIDEr"] == 0.5
    assert record.numbers["table_3/base/standard_CIDEr"] == 0.5
    assert "table_3/base/reported_CIDEr" not in record.numbers
    assert cells(text, "QVLA, one reference, raw strings")[2] == "0.5 (0.5 to 0.5)"
    assert cells(text, "Base, one reference, raw strings")[2] == "–"
    assert "1,234 photos of RISC, split val" in text


def test_parts_are_some_of_the_three() -> None:
    assert report.chosen_parts(None) == ("loading", "captioning", "training")
    assert report.chosen_parts("training, loading") == ("loading", "training")
    assert report.chosen_parts("") == ()
    with pytest.raises(QvlaError, match="loading, captioning, training, not 'lodaing'"):
        report.chosen_parts("lodaing")
