"""The Compare tab in a real browser, with tiny models of random weights."""

from __future__ import annotations

import base64
import csv
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import BrowserContext, Locator, Page, expect

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import Settings
from tests.support import waiting
from tests.support.bad_files import write_bad_files, write_odd_photos
from tests.support.held import held
from tests.support.serving import add_adapters, served, write_photo, write_risc_folder
from tests.support.tiny import build_tiny
from tests.support.visitor import as_read, choose, compare, forget, open_page

pytestmark = pytest.mark.browser

REFERENCES = ["a river next to green trees .", "some white houses are near a road ."]
SIDE = 32  # pixels of what the tiny model is given
PHOTOS = [("UCM", "val", f"photo{n:02}.png", REFERENCES) for n in range(26)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("app")
    model = add_adapters(build_tiny(home / "model"))
    return Settings(
        model=str(model),
        data=write_risc_folder(home / "risc", PHOTOS),
        examples=write_risc_folder(home / "examples", PHOTOS[:2]),
        max_upload_mb=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def loader(settings: Settings) -> LineupLoader:
    loader = LineupLoader.of(settings).start()
    assert loader.wait(waiting.PATIENCE) is not None
    return loader


@pytest.fixture(scope="module")
def address(settings: Settings, loader: LineupLoader) -> Iterator[str]:
    with served(settings, loader) as address:
        yield address


@pytest.fixture(scope="module")
def page(profile: BrowserContext, address: str) -> Iterator[Page]:
    """One visit for all tests, because opening the page is what takes longest."""
    page = forget(profile, address).new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_page(page, address)
    yield page
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def preview(page: Page) -> list[int]:
    """Width and height of the picture that the browser really shows."""
    image = page.locator(".photo-view img")
    expect(image).to_be_visible()
    return image.evaluate(
        "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
    )


def downloaded(page: Page, button: str) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.click(button)
    with download.value.path().open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pane_boxes(page: Page) -> list[dict[str, float]]:
    """All at one moment: the page may still be scrolling."""
    return page.locator(".pane").evaluate_all("panes => panes.map(p => p.getBoundingClientRect())")


def test_an_uploaded_photo_gets_three_captions(page: Page, tmp_path: Path) -> None:
    choose(page, write_photo(tmp_path / "field <b>.png", seed=5, size=(90, 60)))
    assert preview(page) == [90, 60]
    expect(page.locator(".photo-view figcaption")).to_contain_text("90 × 60")
    captions = compare(page)
    assert len(set(captions)) == 3 and all(captions)
    for figure in page.locator(".pane .figures:not(.scores) dd").all_inner_texts():
        assert any(character.isdigit() for character in figure)
    identities = page.locator(".pane .identity").all_inner_texts()
    assert identities == ["model", "model + adapter", "model + qvla"]
    assert page.locator(".pane .scores dd").all_inner_texts() == ["–"] * 6
    expect(page.locator(".panes")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#panes [role=status]")).to_contain_text(f"Base: {captions[0]}")

    expect(page.locator("table.history tbody tr").first).to_contain_text("field <b>.png")
    with page.expect_download() as download:
        page.click("#history-csv")
    assert download.value.suggested_filename == "qvla-history.csv"
    with download.value.path().open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [as_read(row["caption"]) for row in rows[-3:]] == captions
    with page.expect_download() as download:
        page.click("#history-json")
    *_, last = json.loads(download.value.path().read_text(encoding="utf-8"))
    said = [variant["caption"] for variant in last["variants"].values()]
    assert [as_read(text) for text in said] == captions


@pytest.mark.slow
def test_each_bad_file_gets_its_sentence_and_what_was_there_stays(
    page: Page, tmp_path: Path
) -> None:
    good = write_photo(tmp_path / "good.png", seed=6)
    problem = page.locator(".photo-problem")
    page.locator("#references textarea").fill("a field .")
    expect(page.locator(".pane .scores dd").first).not_to_have_text("–")
    captions = page.locator(".pane .caption").all_inner_texts()
    for fault, (file, word) in write_bad_files(tmp_path).items():
        choose(page, file)
        expect(problem).to_contain_text(word)
        sentence = problem.inner_text()
        assert sentence.endswith(".") and "Traceback" not in sentence, fault
        expect(page.locator(".photo-view figcaption")).to_contain_text("field <b>.png")
        assert preview(page) == [90, 60]
        assert page.locator(".pane .caption").all_inner_texts() == captions
        expect(page.locator("#references textarea")).to_have_value("a field .")
    assert compare(page) == captions  # of the photo that is shown, not of the refused file
    expect(problem).to_be_empty()
    page.locator("#references textarea").fill("")
    choose(page, good)
    expect(page.locator(".photo-view figcaption")).to_contain_text("good.png")
    assert preview(page) == [96, 64]
    expect(problem).to_be_empty()
    expect(page.locator(".toast-body")).to_have_count(0)
    assert len(compare(page)) == 3


def test_photos_that_a_browser_cannot_show_are_shown(page: Page, tmp_path: Path) -> None:
    for file in write_odd_photos(tmp_path):
        choose(page, file)
        expect(page.locator(".photo-view figcaption")).to_contain_text(file.name)
        assert preview(page) == [60, 40]
        expect(page.locator(".photo-problem")).to_be_empty()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photo_can_be_dropped_and_pasted(page: Page, tmp_path: Path, way: str) -> None:
    content = base64.b64encode(write_photo(tmp_path / "field.png").read_bytes()).decode()
    page.evaluate(
        """([way, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], way + ".png", {type: "image/png"}));
            const event = way === "drop"
                ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
                : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
            document.body.dispatchEvent(event);
        }""",
        [way, content],
    )
    expect(page.locator(".photo-view figcaption")).to_contain_text(f"{way}.png")
    assert preview(page) == [96, 64]


def test_an_example_brings_its_references_and_scores(page: Page, tmp_path: Path) -> None:
    references = page.locator("#references textarea")
    page.locator("#examples .tile").nth(1).click()
    expect(page.locator(".photo-view figcaption")).to_contain_text("photo01.png")
    expect(references).to_have_value("\n".join(REFERENCES))
    captions = compare(page)
    scores = page.locator(".pane .scores dd")
    assert all(score[0].isdigit() for score in scores.all_inner_texts())

    # the caption itself as ground truth: every content word is shared, and the score is highest
    references.fill(captions[0])
    expect(page.locator(".pane").first.locator(".scores dd").nth(1)).to_have_text("1.00")
    expect(page.locator(".pane").first.locator("mark").first).to_be_visible()
    # what was typed after the comparison is in the history and in its files
    newest = page.locator("table.history tbody tr").first
    expect(newest.locator("td").first).to_contain_text("CIDEr-D 10.00")
    rows = downloaded(page, "#history-csv")
    assert [row["references"] for row in rows[-3:]] == [captions[0]] * 3
    assert float(rows[-3]["rouge_l"]) == pytest.approx(1.0)
    references.fill("")
    expect(scores.first).to_have_text("–")
    expect(page.locator(".pane mark")).to_have_count(0)

    # another photo: captions of the old one go, and so do references that came with an example
    page.locator("#examples .tile").first.click()
    expect(references).to_have_value("\n".join(REFERENCES))
    expect(page.locator('.tile[aria-pressed="true"]')).to_have_count(1)
    choose(page, write_photo(tmp_path / "own.png", seed=9))
    expect(page.locator('.pane[data-state="idle"]')).to_have_count(3)
    expect(references).to_have_value("")
    expect(page.locator('.tile[aria-pressed="true"]')).to_have_count(0)


def test_a_comparison_can_be_stopped(page: Page, loader: LineupLoader, tmp_path: Path) -> None:
    choose(page, write_photo(tmp_path / "long.png", seed=10))
    expect(page.locator(".photo-view figcaption")).to_contain_text("long.png")
    page.get_by_role("button", name="Decoding options").click()
    page.get_by_label("number input for Maximum length").fill("128")
    with held(loader.lineup, 5):
        page.click("#compare")
        page.click("#stop")  # waits until it is enabled, which it is while captions come
        expect(page.locator('.pane[data-state="stopped"]').first).to_be_visible()
    expect(page.locator(".panes")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#stop")).to_be_disabled()
    page.get_by_label("number input for Maximum length").fill("20")
    compare(page)
    notes = page.locator(".pane .note").all_inner_texts()
    assert [note.split(",")[0] for note in notes] == ["20 tokens"] * 3


def test_the_gallery_pages_and_hands_over_a_photo(page: Page) -> None:
    page.get_by_role("button", name="Gallery").click()
    tiles = page.locator("#gallery-grid .tile")
    expect(tiles).to_have_count(24)
    page.get_by_role("button", name="Next", exact=True).click()
    expect(tiles).to_have_count(2)
    expect(page.locator("#gallery-note")).to_contain_text("26 photos, page 2 of 2")
    tiles.nth(1).click()
    expect(page.locator(".photo-view figcaption")).to_contain_text("photo25.png")
    expect(page.locator("#references textarea")).to_have_value("\n".join(REFERENCES))


def tab_to(page: Page, selector: str) -> Locator:
    """Presses Tab until the keyboard is there."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return page.locator(":focus")
    raise AssertionError(f"the keyboard does not get to {selector}")


def captioned(page: Page, rows: int) -> None:
    """Until so many comparisons are in the history, the last of which is all there."""
    expect(page.locator("table.history tbody tr")).to_have_count(rows)
    expect(page.locator('.pane[data-state="done"]')).to_have_count(3)


@pytest.mark.slow
def test_the_keyboard_alone_picks_captions_zooms_and_reads_what_terms_mean(page: Page) -> None:
    rows = page.locator("table.history tbody tr").count()
    page.locator("#masthead").evaluate("e => { e.tabIndex = -1; e.focus(); }")
    tab_to(page, "#examples .tile")
    page.keyboard.press("Enter")
    captioned(page, rows + 1)  # picking was enough
    expect(page.locator(".verdict")).to_contain_text("times less memory than")
    ratios = page.locator(".pane .figures small").all_inner_texts()
    # Of times and weights in turn; a time that is the same as Base's has no ratio.
    assert [bool(text) for text in ratios[1::2]] == [False, True, True] and not ratios[0]
    assert all(text.endswith(" × Base") for text in ratios if text)
    expect(page.locator(".key .own")).to_be_visible()
    own = page.locator(".pane .own")
    assert own.first.evaluate("e => getComputedStyle(e).textDecorationLine") == "underline"

    tab_to(page, ".pane .term")
    expect(page.locator(":focus")).to_have_text("Tokens / s")
    page.keyboard.press("Enter")
    meaning = page.locator("#term-token")
    expect(meaning).to_be_visible()
    page.keyboard.press("Escape")
    expect(meaning).to_be_hidden()
    expect(page.locator(":focus")).to_have_text("Tokens / s")

    tab_to(page, "#references textarea")
    page.keyboard.press("Control+Enter")
    captioned(page, rows + 2)

    page.locator("#masthead").evaluate("e => e.focus()")
    tab_to(page, ".photo-zoom")
    page.keyboard.press("Enter")
    seen = page.locator(".zoom-seen")
    expect(seen).to_be_visible()
    side = seen.evaluate("i => i.decode().then(() => [i.naturalWidth, i.naturalHeight])")
    assert side == [SIDE, SIDE]
    page.keyboard.press("Escape")
    expect(page.locator(".zoom")).to_be_hidden()
    expect(page.locator(":focus")).to_have_class("photo-zoom")
    page.keyboard.press("Enter")
    expect(page.locator(".zoom-go")).to_be_disabled()
    tab_to(page, 'input[name="part"]')
    for _ in range(50):
        page.keyboard.press("ArrowLeft")
    tab_to(page, 'input[name="across"]')
    page.keyboard.press("End")
    tab_to(page, ".zoom-go")
    page.keyboard.press("Enter")
    captioned(page, rows + 3)
    expect(page.locator(".photo-view figcaption")).to_contain_text("part of photo00.png")
    assert preview(page) == [48, 32]
    expect(page.locator("#references textarea")).to_have_value("")


def test_everything_has_a_name_and_the_keyboard_reaches_it(page: Page) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, a[href], input, textarea, select")]
            .filter((element) => element.checkVisibility())
            .filter((element) => !(element.innerText?.trim() || element.ariaLabel || element.title
                || element.labels?.length || element.getAttribute("aria-labelledby")))
            .map((element) => element.outerHTML.slice(0, 120))"""
    )
    assert nameless == []
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    pick = page.locator(".photo-pick")
    pick.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert pick.evaluate("element => element === document.activeElement")
    assert pick.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    page.evaluate(
        """() => document.getElementById("photo-file").addEventListener(
            "click", (event) => { event.preventDefault(); window.pickerOpened = true; })"""
    )
    page.keyboard.press("Enter")
    page.wait_for_function("window.pickerOpened === true")


def test_a_telephone_shows_it_without_sideways_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#examples .tile").first.click()
    compare(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator('.pane[data-variant="qvla"] .precision .term').click()
    box = page.locator("#term-nf4").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.mouse.click(5, 5)
    expect(page.locator("#term-nf4")).to_be_hidden()
    page.get_by_text("How it works").click()
    expect(page.locator(".how svg")).to_have_count(3)
    assert all(svg.bounding_box()["width"] <= 390 for svg in page.locator(".how svg").all())
    page.get_by_text("How it works").click()
    page.locator(".photo-view img").click()
    expect(page.locator(".zoom-seen")).to_be_visible()
    box = page.locator(".zoom").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.get_by_role("button", name="Close").click()
    boxes = pane_boxes(page)
    assert len({box["x"] for box in boxes}) == 1 and boxes[0]["width"] > 340
    page.set_viewport_size({"width": 1280, "height": 900})
    boxes = pane_boxes(page)
    assert len({round(box["width"]) for box in boxes}) == 1
    assert len({round(box["height"]) for box in boxes}) == 1
    assert len({box["y"] for box in boxes}) == 1


@pytest.mark.slow
def test_a_page_that_is_only_open_draws_nothing(context: BrowserContext, address: str) -> None:
    page = context.new_page()
    page.add_init_script(
        """{
            const own = window.requestAnimationFrame.bind(window);
            window.asked = 0;
            window.requestAnimationFrame = (draw) => { window.asked += 1; return own(draw); };
        }"""
    )
    open_page(page, address)
    assert page.evaluate("window.asked") > 0
    waiting.until(
        lambda: page.evaluate(
            """async () => {
                const before = window.asked;
                await new Promise((done) => setTimeout(done, 1000));
                return window.asked === before;
            }"""
        )
    )


@pytest.mark.slow
def test_the_page_is_there_before_the_weights(
    profile: BrowserContext, settings: Settings, loader: LineupLoader
) -> None:
    gate, attempts = threading.Event(), []

    def load(progress):
        progress("Fetching the weights from a slow disk.")
        gate.wait()
        attempts.append(1)
        if len(attempts) == 1:
            raise QvlaError("The disk came off: plug it in.")
        return loader.lineup

    with served(settings, LineupLoader(load).start()) as address:
        page = forget(profile, address).new_page()
        page.goto(address)
        banner = page.locator("#banner")
        expect(banner).to_contain_text("Fetching the weights from a slow disk.")
        page.locator("#examples .tile").first.click()
        assert preview(page) == [96, 64]
        gate.set()
        expect(banner).to_contain_text("The disk came off: plug it in.")
        page.click("#retry")
        expect(banner).to_contain_text("Ready")
        assert len(set(compare(page))) == 3
