"""The form of a new fine-tune in a real browser: data that is brought, and what is half typed."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import BrowserContext, Page, expect

from qvla.captioning.loader import LineupLoader
from qvla.jobs.places import places_of
from qvla.jobs.service import Jobs
from qvla.jobs.store import JobState, Store
from qvla.methods.registry import KINDS
from qvla.settings import Settings
from tests.support.serving import served, write_risc_folder
from tests.support.visitor import open_page

pytestmark = pytest.mark.browser

PASSWORD = "open sesame"
ROWS = [("UCM", "val" if n > 7 else "train", f"{n}.png", ["a river"]) for n in range(10)]


@pytest.fixture(scope="module")
def settings(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An app that was told of no data."""
    home = tmp_path_factory.mktemp("form")
    return Settings(
        model=str(tiny_checkpoint),
        jobs=home / "jobs",
        records=home / "records",
        admin_password=PASSWORD,
        device="cpu",
    )


@pytest.fixture(scope="module")
def address(settings: Settings) -> Iterator[str]:
    loader = LineupLoader.of(settings).start()
    assert loader.wait(300) is not None
    with served(settings, loader) as address:
        yield address


@pytest.fixture
def page(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    open_page(page, address)
    page.get_by_role("tab", name="Admin", exact=True).click()
    page.locator("#admin-password input").fill(PASSWORD)
    page.click("#admin-sign-in")
    return page


def field(page: Page, name: str):
    return page.locator(f"#job-{name} :is(input, textarea)")


def upload(page: Page, file: Path) -> None:
    with page.expect_file_chooser() as asked:
        page.click("#job-upload")
    asked.value.set_files(str(file))


@pytest.mark.slow
def test_without_data_the_form_says_how_to_bring_some(
    page: Page, settings: Settings, tmp_path: Path
) -> None:
    alert = page.locator("#job-problem [role=alert]")
    expect(page.locator("#job-preview")).to_contain_text("upload a zip")
    expect(page.locator("#job-submit")).to_be_disabled()
    expect(alert).to_have_count(0)

    (tmp_path / "bad.zip").write_bytes(b"no archive")
    upload(page, tmp_path / "bad.zip")
    expect(page.locator("#job-uploaded")).to_contain_text("no zip archive")
    expect(page.locator("#job-submit")).to_be_disabled()

    data = write_risc_folder(tmp_path / "photos", ROWS)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        for file in (one for one in data.rglob("*") if one.is_file()):
            packed.write(file, file.relative_to(tmp_path))
    upload(page, tmp_path / "photos.zip")
    expect(page.locator("#job-uploaded")).to_contain_text("All 10 rows are good.")
    expect(page.locator("#job-uploaded")).to_contain_text("train 8, val 2")
    expect(page.locator("#job-uploaded .sheet img")).to_have_count(10)
    expect(page.locator("#job-preview .facts")).to_contain_text("from 8 photos")
    expect(page.locator("#job-submit")).to_be_enabled()
    expect(alert).to_have_count(0)

    cards = page.locator("#job-cards")
    cards.get_by_label("Quick test").check()
    expect(field(page, "max-steps")).to_have_value("20")
    expect(page.locator("#job-preview .facts")).to_contain_text("20, from 8 photos")
    cards.get_by_label("The report's recipe").check()
    expect(field(page, "max-steps")).to_have_value("")
    expect(cards.get_by_label("The report's recipe")).to_be_checked()
    page.get_by_role("button", name="What each method costs").click()
    expect(page.locator("#job-methods .card")).to_have_count(len(KINDS))

    # What is half typed is no fault, and a fault goes with what was wrong.
    splits, layers = field(page, "splits"), field(page, "layers")
    splits.press("End")
    for letter in "ing set":
        splits.press(letter)
    page.wait_for_timeout(700)
    expect(alert).to_have_count(0)
    layers.focus()
    expect(alert).to_contain_text("training set")
    splits.fill("train")
    layers.fill("all")
    field(page, "seed").focus()
    expect(alert).to_contain_text("layers are numbers")
    layers.fill("")
    field(page, "seed").focus()
    expect(alert).to_have_count(0)
    field(page, "batch-size").fill("")
    layers.focus()
    expect(page.locator("#job-preview .facts")).to_be_visible()
    expect(alert).to_have_count(0)

    page.click("#job-submit")
    message = page.locator("#job-message")
    expect(message).to_contain_text("is queued")
    [job] = Jobs(settings).all()
    assert Path(job.data).parent == settings.uploads
    store = Store(places_of(settings).database_url)
    claimed = store.claim(job.id, "elsewhere:1:1")
    expect(page.locator("#job-head .chip")).to_have_attribute("data-state", "running")
    expect(message.locator("p")).to_have_count(0)  # it is queued no more
    store.finish(claimed, JobState.FAILED, "It was only a test.")
    expect(page.locator("#job-head")).to_contain_text("only a test")
    page.click("#job-resume")
    expect(message).to_contain_text("is queued again")
