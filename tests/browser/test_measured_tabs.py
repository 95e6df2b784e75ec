"""The Memory and Latency tabs in a real browser: numbers on the page are those of the records."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import BrowserContext, Locator, Page, expect

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.planning.planner import plan
from qvla.records import store as records
from qvla.settings import Settings
from qvla.ui.origins import visit_records
from tests.support.contrasts import CONTRASTS
from tests.support.measured import (
    BATCHES,
    PARTS,
    TRAINED,
    VARIANTS,
    latency_numbers,
    memory_numbers,
    training_record,
    write_record,
)
from tests.support.serving import add_adapters, served, write_risc_folder
from tests.support.tiny import build_tiny
from tests.support.visitor import DESK, PATIENCE, forget, no_complaints

pytestmark = pytest.mark.browser

FULL = {"model": "paligemma-3b-pt-224 (random weights)", "accelerator": "Test GPU"}
TABS = ("Memory", "Latency")
TITLES = {"Base": "base", "Adapter": "adapter", "QVLA": "qvla"}


def no_weights(progress: object) -> None:
    raise QvlaError("These tests need no weights.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of two models on two machines; the GPU's are the newer."""
    folder = tmp_path_factory.mktemp("records")
    write_record(folder, "bench/memory", memory_numbers(0.007), hour=1)
    write_record(folder, "bench/memory", memory_numbers(), hour=2, **FULL)
    training_record(folder, hour=3, **FULL)
    write_record(folder, "bench/latency", latency_numbers(), hour=4, **FULL)
    return folder


@pytest.fixture(scope="module")
def settings(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("app")
    return Settings(
        model=str(add_adapters(build_tiny(home / "model"))),
        examples=write_risc_folder(home / "examples", [("UCM", "val", "field.png", ["a field"])]),
        device="cpu",
        records=folder,
    )


@pytest.fixture(scope="module")
def address(settings: Settings) -> Iterator[str]:
    with served(settings, LineupLoader(no_weights).start()) as address:
        yield address


@pytest.fixture(scope="module")
def visit(profile: BrowserContext, address: str) -> Iterator[Page]:
    """One visit for all tests, because opening the page is what takes longest."""
    with no_complaints(forget(profile, address).new_page(), address) as page:
        page.goto(address)
        yield page


def open_tab(page: Page, name: str) -> Locator:
    """Opens the tab and returns what is in it."""
    page.get_by_role("tab", name=name, exact=True).click()
    content = page.locator(f"#{name.lower()}-tab-content")
    expect(content.locator(".records, .empty").last).to_be_visible()
    return content


def numbers_of(folder: Path, what: str, model: str = FULL["model"]) -> tuple[dict, str]:
    kept = [one for one in records.find(what, [folder]) if one.record.model == model]
    return dict(kept[-1].record.numbers), kept[-1].path.stem


def cells(page: Page, exhibit: str, row: str, kind: str) -> list[tuple[str, str]]:
    """Text and link of the cells of a kind in the row of that name."""
    found = page.locator(f"#{exhibit}-table tr").filter(
        has=page.get_by_role("rowheader", name=row, exact=True)
    )
    cells = found.locator(f'td[data-kind="{kind}"]')
    return cells.evaluate_all(
        "all => all.map(c => [c.querySelector('span').innerText,"
        " c.querySelector('a')?.getAttribute('href') ?? ''])"
    )


def drawn(page: Page, exhibit: str) -> dict[str, list[float | None]]:
    """What Plotly draws: heights by the name of the series."""
    plot = page.locator(f"#{exhibit}-plot .js-plotly-plot")
    expect(plot.locator(".main-svg").first).to_be_visible()
    return plot.evaluate(
        "plot => Object.fromEntries(plot.data.filter(t => t.showlegend === false)"
        ".map(t => [t.name, t.y]))"
    )


def csv_rows(page: Page, exhibit: str) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.click(f"#{exhibit}-csv")
    with download.value.path().open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def test_memory_on_the_page_is_that_of_the_records(visit: Page, folder: Path) -> None:
    open_tab(visit, "Memory")
    numbers, stem = numbers_of(folder, "bench/memory")
    rows = {
        "Loaded": "loaded",
        "Loading, peak": "loading_peak",
        "Captioning, peak": "captioning_peak",
    }
    for row, name in rows.items():
        expected = [numbers[f"{variant}/{name}_bytes"] for variant in VARIANTS]
        assert cells(visit, "memory-loaded", row, "measured") == [
            [gigabytes(size), f"#record-{stem}"] for size in expected
        ]
    for title, variant in TITLES.items():
        row, told = f"Loaded, {title}", "2.8 GB" if variant == "qvla" else "11.5 GB"
        assert cells(visit, "memory-report", row, "reported") == [[told, ""]]
        assert cells(visit, "memory-report", row, "measured") == [
            [gigabytes(numbers[f"{variant}/loaded_bytes"]), f"#record-{stem}"]
        ]
    heights = drawn(visit, "memory-loaded")
    for title, variant in TITLES.items():
        assert [height * 1e9 for height in heights[f"{title}, measured"]] == pytest.approx(
            [numbers[f"{variant}/{name}_bytes"] for name in rows.values()]
        )
    assert len(heights) == len(TITLES)  # the report's are on no axis with them
    own = [row for row in csv_rows(visit, "memory-loaded") if row["kind"] == "measured"]
    assert {(row["quantity"], row["variant"]): float(row["value"]) for row in own} == {
        (quantity, variant): numbers[f"{variant}/{name}_bytes"]
        for quantity, name in rows.items()
        for variant in VARIANTS
    }
    assert {row["record"] for row in own} == {stem}

    training, training_stem = numbers_of(folder, "bench/training")
    assert cells(visit, "memory-training", "Peak", "measured") == [
        [gigabytes(training[f"{variant}/peak_bytes"]), f"#record-{training_stem}"]
        for variant in TRAINED
    ]
    means = [
        cells(visit, "memory-report", f"Training, mean, {title}", "reported") for title in TITLES
    ]
    assert means == [[], [["39 GB", ""]], [["15.5 GB", ""]]]
    series = records.read(folder / f"{training_stem}.json").series
    curves = drawn(visit, "memory-training")
    assert [height * 1e9 for height in curves["QVLA, measured"]] == pytest.approx(
        series["qvla/training_bytes"]
    )
    parts = drawn(visit, "memory-parts")
    for part in PARTS:
        assert [height * 1e9 for height in parts[f"{part.replace('_', ' ')}, measured"]] == (
            pytest.approx([numbers[f"{variant}/parts/{part}_bytes"] for variant in VARIANTS])
        )
    planned = cells(visit, "memory-foreseen", "Weights", "planned")
    assert [text for text, _ in planned] == [
        gigabytes(numbers[f"{variant}/planned_weights_bytes"]) for variant in VARIANTS
    ]


def test_latency_on_the_page_is_that_of_the_record(visit: Page, folder: Path) -> None:
    open_tab(visit, "Latency")
    numbers, stem = numbers_of(folder, "bench/latency")
    for stop, label in (("natural", None), ("fixed", "after a fixed number of tokens")):
        if label:
            visit.get_by_label(label).check()
            expect(visit.locator("#latency-tokens-table")).to_contain_text("20.0")
        for row, name in (
            ("First token", "first_token_seconds"),
            ("Each further token", "token_seconds"),
        ):
            assert cells(visit, "latency-tokens", row, "measured") == [
                [f"{numbers[f'{v}/{stop}/batch_1/{name}'] * 1000:.3g} ms", f"#record-{stem}"]
                for v in VARIANTS
            ]
        assert cells(visit, "latency-tokens", "Floor of a token", "measured") == [
            [f"{numbers[f'{v}/floor_token_seconds'] * 1000:.3g} ms", f"#record-{stem}"]
            for v in VARIANTS
        ]
        heights = drawn(visit, "latency-throughput")
        chart = visit.locator("#latency-throughput-plot .js-plotly-plot")  # for who cannot see it
        expect(chart).to_have_attribute("aria-label", re.compile(r"Adapter, measured: 1 [\d.]+"))
        for title, variant in TITLES.items():
            assert heights[f"{title}, measured"] == [
                numbers[f"{variant}/{stop}/batch_{batch}/images_per_second"] for batch in BATCHES
            ]
    for title, printed, corrected in (
        ("Base", "2.51 h", "9,047 s\n0.49/s"),
        ("Adapter", "1.39 h", "5,987 s\n0.74/s"),
        ("QVLA", "1.54 h", "6,871 s\n0.65/s"),
    ):
        row = f"Captioning 4,454 photos, {title}"
        assert cells(visit, "latency-report", row, "reported") == [[printed, ""]]
        assert cells(visit, "latency-report", row, "corrected") == [[corrected, ""]]
        rate = numbers[f"{TITLES[title]}/natural/batch_32/images_per_second"]
        [[measured, record]] = cells(visit, "latency-report", row, "measured")
        took = 4454 / rate
        shown = f"{took:.3g}" if took < 100 else f"{took:,.0f}"
        assert measured == f"{shown} s\n{rate:.1f}/s" and record == f"#record-{stem}"
    rows = csv_rows(visit, "latency-throughput")
    assert {(row["quantity"], row["variant"]): float(row["value"]) for row in rows} == {
        (f"Batch {batch}", variant): numbers[f"{variant}/fixed/batch_{batch}/images_per_second"]
        for batch in BATCHES
        for variant in VARIANTS
    }


@pytest.mark.parametrize("name", TABS)
def test_a_telephone_shows_them_without_sideways_scrolling(visit: Page, name: str) -> None:
    open_tab(visit, name)
    plots = visit.locator(f"#{name.lower()}-tab-content .js-plotly-plot")
    expect(plots.first.locator(".main-svg").first).to_be_visible()
    visit.get_by_role("tab", name="Compare").click()
    visit.set_viewport_size({"width": 390, "height": 844})  # turned while out of sight
    open_tab(visit, name)
    visit.wait_for_function(
        "document.documentElement.scrollWidth <= 390 && [...document.querySelectorAll("
        "'.js-plotly-plot .main-svg')].every(s => s.getBoundingClientRect().right <= 390)"
    )
    for box in plots.locator(".main-svg").evaluate_all(
        "all => all.map(svg => svg.getBoundingClientRect()).map(b => [b.left, b.right])"
    ):
        assert box[0] >= 0 and box[1] <= 390
    sizes = visit.locator(f"#{name.lower()}-tab-content :is(text, td, th, p, li, small)")
    smallest = sizes.evaluate_all(
        "all => Math.min(...all.filter(e => e.checkVisibility() && e.textContent.trim())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12
    visit.set_viewport_size(DESK)


@pytest.mark.parametrize("theme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_text_stands_out_from_its_paper(visit: Page, address: str, theme: str) -> None:
    visit.goto(f"{address}?__theme={theme}")
    for name in TABS:
        content = open_tab(visit, name)
        expect(content.locator(".js-plotly-plot .main-svg").first).to_be_visible()
        text = content.locator(":is(h2, h3, p, li, td span, td small, td a, th, summary, text)")
        found = text.evaluate_all(CONTRASTS)
        assert len(found) > 60
        assert [pair for pair in found if pair[0] < 4.5] == []
    tabs = visit.get_by_role("tab").evaluate_all(CONTRASTS)
    assert [pair for pair in tabs if pair[0] < 4.5] == []


@pytest.mark.slow
def test_a_number_opens_its_record_and_a_model_can_be_chosen(visit: Page, folder: Path) -> None:
    content = open_tab(visit, "Memory")
    stem = numbers_of(folder, "bench/memory")[1]
    record = content.locator(f"#record-{stem}")
    expect(record).not_to_have_attribute("open", "")
    content.locator(f'a[href="#record-{stem}"]').first.click()
    expect(record).to_have_attribute("open", "")
    expect(record).to_be_in_viewport()
    shown = json.loads(record.locator("pre").inner_text())
    assert shown == json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))

    visit.locator("#memory-subject input").click()
    visit.get_by_role("option", name="mini · Test CPU").click()
    numbers, own = numbers_of(folder, "bench/memory", "mini")
    expect(content.locator(f"#record-{own}")).to_be_attached()
    assert cells(visit, "memory-loaded", "Loaded", "measured")[2] == [
        f"{numbers['qvla/loaded_bytes'] / 1e6:.1f} MB",
        f"#record-{own}",
    ]
    expect(visit.locator("#memory-report-table")).to_contain_text("mini is another model")
    # another visit to the tab keeps the choice
    open_tab(visit, "Latency")
    open_tab(visit, "Memory")
    expect(visit.locator("#memory-subject input")).to_have_value("mini · Test CPU")


@pytest.mark.slow
def test_the_planner_answers_on_the_page(visit: Page) -> None:
    open_tab(visit, "Memory")
    answer = visit.locator("#plan-answer")
    expect(answer).to_contain_text("Total")  # of the form as it is
    visit.locator("#plan-model input").click()
    visit.get_by_role("option", name="google/paligemma-3b-pt-224").click()
    visit.locator("#plan-variant").get_by_label("Base").check()
    visit.locator("#plan-batch input").fill("8")
    visit.locator("#plan-batch input").press("Enter")
    expected = plan("google/paligemma-3b-pt-224", "base", task="training", batch_size=8)
    total = answer.locator("tr").last.locator("td span")
    expect(total).to_have_text(re.compile(rf"^{expected.total / 1e9:.1f} GB$"))
    for name, _, fit in expected.fits:
        item = answer.locator(".gpus li").filter(has_text=name)
        expect(item).to_contain_text("fits" if fit else "too small")
    capacity = next(capacity for name, capacity, _ in expected.fits if name == expected.smallest)
    bar = answer.get_by_role("meter", name=f"Memory taken of {expected.smallest}")
    expect(bar).to_have_attribute("aria-valuenow", f"{100 * expected.total / capacity:.0f}")
    visit.locator("#plan-batch input").fill("0")
    visit.locator("#plan-batch input").press("Tab")
    expect(answer.get_by_role("alert")).to_contain_text("batch size must be a whole number")


@pytest.mark.slow
def test_where_nothing_was_measured_the_page_says_how_to(
    visit: Page, address: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "records", tmp_path / "none")
    visit.goto(address)
    for name in TABS:
        content = open_tab(visit, name)
        message = visit.locator(f"#{name.lower()}-message")
        expect(message).to_contain_text(f"No {name.lower()} has been measured yet")
        expect(message).to_contain_text(f"python -m qvla bench --suite {name.lower()}")
        expect(visit.locator(f"#{name.lower()}-measure")).to_be_visible()
        assert content.locator('[data-kind="measured"]').count() == 0
        assert content.locator('[data-kind="reported"]').count() >= 5
    # a record that cannot be read is named, and does not hide the others
    write_record(tmp_path / "none", "bench/memory", memory_numbers(), hour=1)
    (tmp_path / "none" / "damaged.json").write_text("{", encoding="utf-8")
    open_tab(visit, "Memory")
    expect(visit.locator("#memory-message")).to_contain_text("damaged.json")
    assert len(cells(visit, "memory-loaded", "Loaded", "measured")) == 3


@pytest.mark.slow
def test_measuring_now_shows_the_new_record(
    visit: Page, address: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real suite on the tiny model, in a process of its own."""
    monkeypatch.setattr(settings, "records", tmp_path)
    visit.goto(address)
    content = open_tab(visit, "Latency")
    visit.get_by_label("after a fixed number of tokens").check()
    visit.click("#latency-measure")
    expect(visit.locator("#latency-measuring [data-state=done]")).to_be_visible(
        timeout=3 * PATIENCE
    )
    [kept] = records.find("bench/latency", [visit_records(settings)])
    expect(content.locator(f"#record-{kept.path.stem}")).to_be_attached()
    numbers = kept.record.numbers
    assert cells(visit, "latency-tokens", "First token", "measured") == [
        [
            f"{numbers[f'{variant}/fixed/batch_1/first_token_seconds'] * 1000:.3g} ms",
            f"#record-{kept.path.stem}",
        ]
        for variant in kept.record.variants
    ]
