"""Debian's chromium through Playwright; every test here skips where there is none.

All visits have one profile, emptied of what pages keep: its cache holds the files of Gradio's page
and what they were compiled to, which takes longer than all that the page does then.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Playwright, expect, sync_playwright

from tests.support.visitor import DESK, PATIENCE, forget

T = TypeVar("T")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage "
    # Without a graphics card every frame of a lamp that pulses is painted by the processor.
    "--force-prefers-reduced-motion"
).split()


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        yield playwright


def _start(launch: Callable[..., T], **options: Any) -> T:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium: install it with `apt-get install chromium`")
    try:
        return launch(executable_path=path, args=ARGUMENTS, **options)
    except Error as error:
        pytest.skip(f"chromium does not start here: {error.message.splitlines()[0]}")


@pytest.fixture(scope="session")
def profile(
    playwright: Playwright, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserContext]:
    """The profile of all visits, with its cache on the disk."""
    profile = _start(
        playwright.chromium.launch_persistent_context,
        user_data_dir=tmp_path_factory.mktemp("profile"),
        viewport=DESK,
    )
    profile.set_default_timeout(PATIENCE)
    yield profile
    profile.close()


@pytest.fixture
def context(profile: BrowserContext, address: str) -> BrowserContext:
    """The profile with no page open, which has kept nothing of the file's app."""
    return forget(profile, address)


@pytest.fixture(scope="session")
def elsewhere(playwright: Playwright) -> Iterator[Browser]:
    """A browser for who visits at the same time as the profile's; its visits keep no cache."""
    browser = _start(playwright.chromium.launch)
    yield browser
    browser.close()
