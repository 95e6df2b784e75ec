"""The CIDEr tab in a real browser: records made by hand, and one measured while it is watched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, BrowserContext, Page, expect

from qvla import scoring
from qvla.captioning.loader import LineupLoader
from qvla.data.examples import read_examples
from qvla.data.risc import Example
from qvla.evaluation.evaluate import choose
from qvla.records import store as records
from qvla.settings import Settings
from qvla.ui import background
from qvla.ui.measured.cider import LIMIT
from qvla.ui.measured.evaluations import Evaluation, find_evaluations
from qvla.ui.origins import visit_records
from tests.support.evaluations import PROTOCOLS, VARIANTS, write_evaluation
from tests.support.gates import Gate
from tests.support.serving import add_adapters, never_asking_for_weights, served, write_risc_folder
from tests.support.tiny import build_tiny
from tests.support.visitor import PATIENCE, as_read, forget, no_complaints

pytestmark = pytest.mark.browser

PLACES = "river road beach forest airport".split()
ROWS = [
    (
        "UCM" if number % 3 else "RSICD",
        "val",
        f"photo{number:02}.png",
        [
            f"a {PLACES[number % 5]} next to {number % 4} trees .",
            f"the {PLACES[number % 5]} is green .",
        ],
    )
    for number in range(30)
]


def captions(examples: list[Example]) -> dict[str, dict[str, str]]:
    return {
        "base": {example.name: "river <b>" for example in examples},
        "adapter": {example.name: example.references[1] for example in examples},
        "qvla": {
            example.name: example.references[number % 2] if number % 6 else "many planes ."
            for number, example in enumerate(examples)
        },
    }


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("app")
    return Settings(
        model=str(add_adapters(build_tiny(home / "model"))),
        data=write_risc_folder(home / "risc", ROWS),
        device="cpu",
    )


@pytest.fixture(scope="module")
def examples(settings: Settings) -> list[Example]:
    return read_examples(settings.data)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Path:
    home = tmp_path_factory.mktemp("runs")
    write_evaluation(home, examples[:9], {}, model="bare")
    write_evaluation(home, examples, captions(examples), model="whole")
    return home


@pytest.fixture(scope="module")
def whole(home: Path) -> Evaluation:
    found = find_evaluations(Settings(records=home / "records"), pytest.fail)
    return next(one for one in found if one.record.model == "whole")


@pytest.fixture(scope="module")
def address(settings: Settings, home: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SPACE_ID", raising=False)
        own = settings.model_copy(update={"records": home / "records"})
        loader = LineupLoader(lambda progress: None)
        with never_asking_for_weights(), served(own, loader) as address:
            yield address
        background.TASKS.close()


@pytest.fixture(scope="module")
def page(profile: BrowserContext, address: str) -> Iterator[Page]:
    with no_complaints(forget(profile, address).new_page(), address) as page:
        open_tab(page, address)
        yield page


def open_tab(page: Page, address: str) -> None:
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.get_by_role("tab", name="CIDEr").click()
    expect(page.locator("#cider-protocols table")).to_be_visible()


def choose_option(page: Page, box: str, option: str) -> None:
    page.locator(f"{box} input").click()
    page.get_by_role("option", name=option).first.click()


def choose_file(page: Page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.click("#own-file")
    chooser.value.set_files(str(path))


def row(page: Page, exhibit: str, name: str) -> list[str]:
    """The first lines of a row's cells."""
    found = page.locator(f"{exhibit} tbody tr", has_text=name).first
    return [text.split("\n")[0] for text in found.locator("td").all_inner_texts()]


def values(record: records.Record, key: str) -> list[str]:
    return [f"{record.numbers[key.format(variant)]:.3f}" for variant in VARIANTS]


def test_numbers_on_the_page_are_the_record_s(page: Page, whole: Evaluation) -> None:
    table = page.locator("#cider-protocols tbody tr")
    expect(table).to_have_count(2)
    expect(table.nth(1)).to_contain_text("measured")
    against = page.locator("#cider-report tbody tr")
    assert against.locator('td[data-kind="reported"] span').all_inner_texts() == [
        "0.0006",
        "1.4336",
        "1.5533",
    ]
    assert [text.split()[0] for text in against.locator("td a").all_inner_texts()] == values(
        whole.record, "reported/{}/all/CIDEr"
    )
    by_protocol = [line.locator("td span").all_inner_texts() for line in table.all()]
    for protocol, shown in zip(PROTOCOLS, by_protocol, strict=True):
        for variant, text in zip(VARIANTS, shown, strict=True):
            key = f"{protocol}/{variant}/all/CIDEr"
            numbers = whole.record.numbers
            ends = f"{numbers[f'{key}/low']:.3f} to {numbers[f'{key}/high']:.3f}"
            assert text.split() == [f"{numbers[key]:.3f}", *ends.split()]
    for group in ("All photos (30)", "RSICD (10)", "UCM (20)"):
        for protocol in PROTOCOLS:
            name = "all" if group.startswith("All") else group.split()[0]
            assert row(page, "#cider-sources", f"{group}, {protocol}") == values(
                whole.record, f"{protocol}/{{}}/{name}/CIDEr"
            )
    expect(page.locator("#cider-protocols .js-plotly-plot")).to_be_visible()
    expect(page.locator("#cider-sources .js-plotly-plot")).to_be_visible()

    for protocol in ("Reported", "Standard"):
        page.get_by_label(protocol, exact=True).check()
        shown = page.locator("#cider-metrics table caption")
        expect(shown).to_have_text(f"Other metrics, {protocol.lower()} protocol")
        for metric in ("BLEU-4", "ROUGE-L"):
            assert row(page, "#cider-metrics", metric) == values(
                whole.record, f"{protocol.lower()}/{{}}/all/{metric}"
            )
        difference = whole.difference(protocol.lower(), "qvla", "adapter")
        verdict = page.locator("#cider-differences .verdict")
        expect(verdict).to_contain_text(f"QVLA scores {difference.value:.3f} more than Adapter")
    with page.expect_download() as download:
        page.click("#cider-sources-csv")
    assert "record" in download.value.path().read_text(encoding="utf-8").splitlines()[0]


def test_a_number_opens_to_its_record(page: Page, whole: Evaluation) -> None:
    details = page.locator(f"#record-{whole.stem}")
    expect(details).not_to_have_attribute("open", "")
    page.locator("#cider-protocols td a").last.click()
    expect(details).to_have_attribute("open", "")
    shown = json.loads(details.locator("pre").inner_text())
    assert shown == json.loads(whole.record.model_dump_json())


@pytest.mark.slow
def test_an_opened_photo_shows_its_references_and_captions(
    page: Page, examples: list[Example], whole: Evaluation
) -> None:
    tiles = page.locator("#cider-grid .tile")
    expect(tiles).to_have_count(24)
    said = captions(examples)
    truth = {example.name: example.references for example in examples}
    scores = {
        variant: scoring.score(truth, own, metrics=["CIDEr"], resamples=1).per_image["CIDEr"]
        for variant, own in said.items()
    }
    choose_option(page, "#cider-order", "Adapter minus Base")
    choose_option(page, "#cider-direction", "lowest first")
    differences = {name: scores["adapter"][name] - scores["base"][name] for name in truth}
    lowest = f"{min(differences.values()):+.3f}".replace("-", "−")
    expect(page.locator("#cider-grid li").first.locator("span")).to_have_text(lowest)
    choose_option(page, "#cider-source", "RSICD")
    expect(page.locator("#cider-photos-count")).to_contain_text("10 photos, page 1 of 1")
    expect(tiles).to_have_count(10)
    choose_option(page, "#cider-source", "all")
    expect(tiles).to_have_count(24)
    page.locator("#cider-tab-content").get_by_role("button", name="Next").click()
    expect(tiles).to_have_count(6)
    name = tiles.nth(2).get_attribute("data-key")
    tiles.nth(2).click()
    photo = page.locator("#cider-photo .evaluated")
    expect(photo.locator("figcaption")).to_contain_text(name)
    assert photo.locator("img").evaluate("i => i.decode().then(() => i.naturalWidth)") == 96
    assert photo.locator("li").all_inner_texts() == [as_read(text) for text in truth[name]]
    for variant in VARIANTS:
        own = photo.locator(f'[data-variant="{variant}"]')
        expect(own.locator("dd").first).to_have_text(as_read(said[variant][name]))
        expect(own.locator(".score b")).to_have_text(f"{scores[variant][name]:.3f}")
    assert photo.locator('[data-variant="adapter"] mark').count() >= 2


@pytest.mark.slow
def test_an_evaluation_without_photos_says_so(page: Page) -> None:
    choose_option(page, "#cider-evaluation", "bare on fields")
    note = page.locator("#cider-photos-notice .notice")
    expect(note).to_contain_text("captions of this evaluation are not on this machine")
    expect(note).to_contain_text("These are the photos of whole on fields, 30 photos")
    expect(page.locator("#cider-sources tbody tr").first).to_contain_text("All photos (9)")
    choose_option(page, "#cider-evaluation", "whole on fields")
    expect(note).to_have_count(0)
    expect(page.locator("#cider-grid .tile")).to_have_count(6)  # page and order have stayed


def test_own_captions_are_scored_beside_ours(
    page: Page, examples: list[Example], tmp_path: Path
) -> None:
    own = {example.name: example.references[0] for example in examples[3:]} | {"moon.png": "moon"}
    path = tmp_path / "mine.jsonl"
    path.write_text("no json\n")
    choose_file(page, path)
    expect(page.locator("#own-result .problem")).to_contain_text("line 1")
    rows = (json.dumps({"image": name, "caption": text}) + "\n" for name, text in own.items())
    path.write_text("".join(rows))
    choose_file(page, path)
    result = page.locator("#own-result")
    expect(result).to_contain_text("Scored on 27 photos. 3 of the evaluation's photos have no")
    expect(result).to_contain_text("1 image in your file is not among its photos: moon.png.")
    truth = {example.name: example.references for example in examples[3:]}
    systems = {"yours": own, **captions(examples)}
    for place, protocol in enumerate(PROTOCOLS):
        scored = [
            scoring.score(
                truth, {name: said[name] for name in truth}, protocol, metrics=scoring.METRICS
            )
            for said in systems.values()
        ]
        table = result.locator("table").nth(place)
        for metric in ("CIDEr", "BLEU-4"):
            shown = table.locator("tr", has_text=metric).locator("td span").all_inner_texts()
            assert [text.split("\n")[0] for text in shown] == [
                f"{one.metrics[metric].value:.3f}" for one in scored
            ]


def test_a_telephone_shows_it_without_sideways_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#cider-grid .tile").nth(1).click()
    photo = page.locator("#cider-photo")
    expect(photo).to_be_in_viewport()
    page.locator("#cider-protocols td a").first.click()
    expect(page.locator("#cider-records pre")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = page.evaluate(
        """() => ["#cider-grid", "#cider-photo .evaluated", "#cider-protocols", "#own-result",
            "#cider-records pre", "#cider-photo img"]
            .map((name) => document.querySelector(name).getBoundingClientRect())
            .map((box) => [box.left, box.right])"""
    )
    assert all(left >= 0 and right <= 390 for left, right in boxes)
    page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.slow
def test_measuring_now_can_be_watched_cancelled_and_seen(
    page: Page,
    elsewhere: Browser,
    address: str,
    settings: Settings,
    home: Path,
    examples: list[Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The command comes no further than to its first captions until all have seen that it runs.
    gate = Gate(tmp_path / "gate", "open", "base.jsonl", mode="a")
    for name, value in gate.variables.items():
        monkeypatch.setenv(name, value)
    gate.close()
    unreadable = choose(examples, LIMIT)[0]
    unreadable.image.write_bytes(b"no picture")
    measuring = page.locator("#cider-measuring .measuring")
    page.click("#cider-measure")
    expect(measuring).to_have_attribute("data-state", "running")
    expect(page.locator("#cider-measure")).to_be_disabled()

    other = elsewhere.new_page()
    open_tab(other, address)
    expect(other.locator("#cider-measuring .measuring")).to_have_attribute("data-state", "running")
    expect(other.locator("#cider-measure")).to_be_disabled()
    expect(other.locator("#cider-cancel")).to_have_count(0)
    page.click("#cider-cancel")
    for one in (page, other):
        expect(one.locator("#cider-measuring")).to_contain_text("cancelled")
        expect(one.locator("#cider-measure")).to_be_enabled()
        expect(one.locator("#cider-cancel")).to_have_count(0)
    assert len(list((home / "records").glob("*.json"))) == 2

    page.click("#cider-measure")
    expect(measuring).to_have_attribute("data-state", "running")
    other.reload()
    other.get_by_role("tab", name="CIDEr").click()
    expect(other.locator("#cider-measuring [role=progressbar]")).to_be_visible()
    expect(measuring.locator("[role=progressbar]")).to_have_attribute("aria-valuemax", str(LIMIT))
    gate.let_through()
    for one in (page, other):
        done = one.locator('#cider-measuring .measuring[data-state="done"]')
        expect(done).to_contain_text("1 photos could not be opened", timeout=3 * PATIENCE)
    measured = visit_records(settings.model_copy(update={"records": home / "records"}))
    newest = records.find("evaluation", [measured], pytest.fail)[-1]
    assert newest.record.model == "model" and newest.record.data.items == LIMIT - 1
    expect(page.locator("#cider-photos-count")).to_contain_text(f"{LIMIT - 1} photos")
    # who did not measure sees what was there, and may choose the other by its name
    expect(other.locator("#cider-photos-count")).to_contain_text("30 photos")
    expect(other.locator("#cider-evaluation input")).to_have_value(re.compile("^whole on fields"))
    open_tab(other, address)
    expect(other.locator("#cider-evaluation input")).to_have_value(re.compile("^whole on fields"))
    choose_option(other, "#cider-evaluation", "Measured from this page: model on risc, 23 photos")
    for one in (page, other):
        name = f"All photos ({LIMIT - 1}), standard"
        expect(one.locator("#cider-sources")).to_contain_text(name)
        assert row(one, "#cider-sources", name) == values(newest.record, "standard/{}/all/CIDEr")
    other.close()
    tile = page.locator("#cider-grid .tile").nth(3)
    name = tile.get_attribute("data-key")
    tile.click()
    photo = page.locator("#cider-photo .evaluated")
    expect(photo.locator("figcaption")).to_contain_text(name)
    for variant in VARIANTS:
        said = scoring.read_predictions(newest.file(f"predictions/{variant}"))[name]
        caption = photo.locator(f'[data-variant="{variant}"] dd').first
        expect(caption).to_have_text(said or "It said nothing.")
