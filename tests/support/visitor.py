"""What a visitor of the page does, for all browser tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, expect

from tests.support import waiting

PATIENCE = 1000 * waiting.PATIENCE  # in milliseconds, as Playwright counts
DESK = {"width": 1280, "height": 900}


def forget(profile: BrowserContext, address: str) -> BrowserContext:
    """Closes all pages, and empties what an address kept, but for the cache of files."""
    blank, *opened = profile.pages
    for page in opened:
        page.close()
    profile.clear_cookies()
    profile.clear_permissions()
    tools = profile.new_cdp_session(blank)
    kept = {"origin": address.rstrip("/"), "storageTypes": "local_storage,indexeddb"}
    tools.send("Storage.clearDataForOrigin", kept)
    tools.detach()
    return profile


@contextmanager
def no_complaints(page: Page, address: str) -> Iterator[Page]:
    """What the browser complains of there, and what comes from elsewhere, fails the test."""
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert complaints == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def open_page(page: Page, address: str) -> None:
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page.goto(address)
    expect(page.locator("#banner")).to_contain_text("Ready")


def choose(page: Page, file: Path) -> None:
    page.set_input_files("#photo-file", str(file))


def as_read(text: str) -> str:
    """What is shown of a text that a model said."""
    for stop in ".,;:!?":
        text = text.replace(f" {stop}", stop)
    return text[:1].upper() + text[1:]


def compare(page: Page) -> list[str]:
    """Presses Compare and returns the three captions, as they are read, once all are there."""
    # Or the panes of the comparison before would be taken for those of this one.
    page.locator(".pane").evaluate_all("panes => panes.forEach(one => one.dataset.state = 'seen')")
    page.click("#compare")
    expect(page.locator('.pane[data-state="done"]')).to_have_count(3)
    return page.locator(".pane .caption").all_inner_texts()
