"""Several photos, the history, links and blind votes in a real browser, on few page loads."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

from qvla.captioning.loader import LineupLoader
from qvla.records import votes
from qvla.settings import Settings
from qvla.ui.sentences import as_sentence
from tests.support import waiting
from tests.support.serving import add_adapters, served, write_photo, write_risc_folder
from tests.support.tiny import build_tiny
from tests.support.visitor import DESK, choose, forget

pytestmark = pytest.mark.browser

TELEPHONE = {"width": 390, "height": 844}
TITLES = {"Base", "Adapter", "QVLA"}
PHOTOS = [("UCM", "val", f"photo{n}.png", ["a river next to trees ."]) for n in range(2)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("app")
    model = add_adapters(build_tiny(home / "model"))
    return Settings(
        model=str(model),
        home=home / "home",
        examples=write_risc_folder(home / "examples", PHOTOS),
        max_upload_mb=1,
        max_photos=6,
        votes="on",
        device="cpu",
    )


@pytest.fixture(scope="module")
def address(settings: Settings) -> Iterator[str]:
    loader = LineupLoader.of(settings).start()
    assert loader.wait(waiting.PATIENCE) is not None
    with served(settings, loader) as address:
        yield address


@pytest.fixture(scope="module")
def context(profile: BrowserContext, address: str) -> BrowserContext:
    """One for the whole file."""
    forget(profile, address).grant_permissions(["clipboard-read", "clipboard-write"])
    return profile


@pytest.fixture(scope="module")
def page(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#banner")).to_contain_text("Ready")
    return page


def fits_a_telephone(page: Page) -> None:
    page.set_viewport_size(TELEPHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= TELEPHONE["width"]
    page.set_viewport_size(DESK)


def copied(page: Page) -> str:
    return page.evaluate("navigator.clipboard.readText()")


def test_several_photos_fill_a_table_and_each_opens(page: Page, tmp_path: Path) -> None:
    good = [write_photo(tmp_path / f"field {n}.png", seed=n, size=(90, 60)) for n in range(5)]
    bad = tmp_path / "=bad.png"
    bad.write_bytes(b"GIF89a")
    files = [
        {"name": path.name, "bytes": base64.b64encode(path.read_bytes()).decode()}
        for path in (*good[:2], bad, *good[2:])
    ]
    page.evaluate(
        """(files) => {
            const data = new DataTransfer();
            for (const { name, bytes } of files) {
                const content = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
                data.items.add(new File([content], name, { type: "image/png" }));
            }
            const options = { dataTransfer: data, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", options));
        }""",
        files,
    )
    rows = page.locator("table.several tbody tr")
    expect(page.locator("#several-csv")).to_be_visible()
    expect(rows).to_have_count(6)
    expect(page.locator('table.several tr[data-state="done"]')).to_have_count(5)
    expect(rows.nth(2)).to_contain_text("This is a GIF file")
    expect(page.locator("#several [role=status]").last).to_contain_text("6 of 6 photos done")
    with page.expect_download() as download:
        page.click("#several-csv")
    with download.value.path().open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["photo"] for row in table] == [
        *("field 0.png", "field 1.png", "'=bad.png", "field 2.png", "field 3.png", "field 4.png")
    ]
    with page.expect_download() as download:
        page.click("#several-page")
    printed = download.value.path().read_text(encoding="utf-8")
    assert printed.count("<img") == 5
    assert as_sentence(table[4]["QVLA"].removeprefix("'")) in unescape(printed)
    fits_a_telephone(page)

    rows.nth(4).get_by_role("button", name="Open field 3.png in Compare").press("Enter")
    expect(page.locator(".photo-view figcaption")).to_contain_text("field 3.png")
    expect(page.locator('.pane[data-state="done"]')).to_have_count(3)
    expect(page.locator(".pane .note").first).to_contain_text("Press Compare to have it timed")


def test_an_entry_of_the_history_is_noted_drawn_linked_reopened_and_deleted(
    page: Page, tmp_path: Path
) -> None:
    rows = page.locator("#history table.history tbody tr")
    choose(page, write_photo(tmp_path / "my river.png", seed=8))
    expect(page.locator(".photo-view figcaption")).to_contain_text("my river.png")
    page.click("#compare")
    expect(rows).to_have_count(1)
    copies = page.locator(".pane .copy")
    expect(copies).to_have_count(3)
    copies.nth(1).press("Enter")
    expect(copies.nth(1)).to_have_text("Copied")
    said = page.locator(".pane .caption").all_inner_texts()
    assert copied(page) == said[1]
    expect(copies.nth(1)).to_contain_text("Copy the caption of Adapter")

    page.locator("#examples .tile").first.click()
    expect(page.locator(".photo-view figcaption")).to_contain_text("photo0.png")
    expect(rows).to_have_count(2)  # a pick is captioned at once
    mine = rows.nth(1)
    mine.locator("summary").press("Enter")
    mine.locator(".entry-note-field").fill("Trees <i> and water")
    page.keyboard.press("Enter")
    expect(page.locator(".entry-note")).to_have_text("Trees <i> and water")
    if mine.locator("details").get_attribute("open") is None:
        mine.locator("summary").press("Enter")
    fits_a_telephone(page)
    with page.expect_download() as download:
        mine.get_by_role("button", name="Picture card").press("Enter")
    assert download.value.suggested_filename == "qvla-card.png"
    with Image.open(download.value.path()) as card:
        assert (card.format, card.width) == ("PNG", 1200)
    mine.get_by_role("button", name="Copy link").press("Enter")
    expect(mine.get_by_role("button", name="Copied")).to_be_visible()
    assert "my+river.png" in copied(page) and "?photo=" in copied(page)

    mine.get_by_role("button", name="Open my river.png again").press("Enter")
    expect(page.locator(".photo-view figcaption")).to_contain_text("my river.png")
    expect(page.locator(".pane .caption")).to_have_text(said)
    page.reload()
    expect(page.locator(".entry-note")).to_have_text("Trees <i> and water")
    rows.nth(0).locator("summary").press("Enter")
    rows.nth(0).get_by_role("button", name="Delete").press("Enter")
    expect(rows).to_have_count(1)
    expect(rows.nth(0)).to_contain_text("my river.png")


@pytest.mark.slow
def test_names_are_hidden_until_the_vote(page: Page, settings: Settings, tmp_path: Path) -> None:
    page.get_by_label("Blind vote").check()
    choose(page, write_photo(tmp_path / "never seen.png", seed=12))
    expect(page.locator(".photo-view figcaption")).to_contain_text("never seen.png")
    page.click("#compare")
    choices = page.locator(".vote-choice")
    expect(choices).to_have_text(["A", "B", "C", "Tie", "All bad"])
    expect(page.locator(".pane h3")).to_have_text(["A", "B", "C"])
    panes = page.locator("#panes").inner_html()
    kept = page.evaluate("JSON.stringify(localStorage)")
    page.evaluate("document.getElementById('history').remove()")  # of comparisons before
    assert not [name for name in ("nf4", "fp32", "adapter", "qvla") if name in panes.lower()]
    assert "hidden-" not in kept
    fits_a_telephone(page)
    choices.nth(1).press("Enter")
    expect(page.locator(".vote-thanks")).to_contain_text("You chose B.")
    shown = page.locator(".pane h3").all_inner_texts()
    assert set(shown) == TITLES
    (vote,) = votes.read(settings.votes_file).votes
    assert [one.title for one in vote.shown] == shown and vote.choice == 1

    page.get_by_role("tab", name="CIDEr").click()
    expect(page.locator("#cider-votes")).to_contain_text("Visitors' votes, 1 in all")
    expect(page.locator("#cider-votes")).to_contain_text("Preferred to Base")
    fits_a_telephone(page)


@pytest.mark.slow
def test_a_link_compares_again_or_says_which_photo_it_wants(
    page: Page, context: BrowserContext, address: str, tmp_path: Path
) -> None:
    wanted = copied(page)  # of the test before last
    other = context.new_page()
    other.goto(f"{address}?example=photo1.png&panes=base,qvla&max_new_tokens=7#compare")
    expect(other.locator("#history table.history tbody tr").first).to_contain_text("photo1.png")
    expect(other.locator(".photo-view figcaption")).to_contain_text("photo1.png")
    expect(other.locator(".pane h3")).to_have_text(["Base", "QVLA"])
    with other.expect_download() as download:
        other.click("#history-json")
    *_, last = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert last["photo"] == "photo1.png" and last["decoding"]["max_new_tokens"] == 7
    assert other.url == f"{address}#compare"

    other.goto(wanted)
    note = other.locator("#link-note")
    expect(note).to_contain_text("This link is about the photo my river.png")
    choose(other, write_photo(tmp_path / "other.png", seed=4))
    expect(note).to_contain_text("That is another photo.")
    choose(other, write_photo(tmp_path / "renamed.png", seed=8))
    expect(other.locator("#history table.history tbody tr").first).to_contain_text("renamed.png")
    expect(note.locator("p")).to_have_count(0)
    other.close()
