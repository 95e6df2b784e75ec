"""The admin tab in a real browser: a fine-tune of the embedded model, from the form to Compare."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, expect

from qvla.captioning.engine import caption
from qvla.captioning.lineup import Lineup
from qvla.captioning.loader import LineupLoader
from qvla.data.imagery import open_image
from qvla.jobs import publishing
from qvla.jobs.app_worker import start_worker
from qvla.jobs.service import Jobs
from qvla.settings import EMBEDDED_MODEL, Settings
from tests.support import waiting
from tests.support.contrasts import CONTRASTS
from tests.support.serving import served, write_photo, write_risc_folder
from tests.support.visitor import (
    PATIENCE,
    as_read,
    choose,
    compare,
    forget,
    no_complaints,
    open_page,
)

pytestmark = pytest.mark.browser

PASSWORD = "open sesame"
ROWS = [
    ("UCM", "val" if n > 7 else "train", f"{n}.png", ["a red airport is near a yellow sea"])
    for n in range(10)
]
STEPS = 6


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("admin")
    return Settings(
        model=str(EMBEDDED_MODEL),
        data=write_risc_folder(home / "photos", ROWS),
        jobs=home / "jobs",
        records=home / "records",
        admin_password=PASSWORD,
        device="cpu",
    )


@pytest.fixture(scope="module")
def loader(settings: Settings) -> LineupLoader:
    loader = LineupLoader.of(settings, then=publishing.apply).start()
    assert loader.wait(waiting.PATIENCE) is not None
    return loader


@pytest.fixture(scope="module")
def address(settings: Settings, loader: LineupLoader) -> Iterator[str]:
    """The app with its worker, which trains in processes of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1" if (os.cpu_count() or 1) < 4 else "2")
        worker = start_worker(settings)
        try:
            with served(settings, loader) as address:
                yield address
        finally:
            worker.close()


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    with no_complaints(context.new_page(), address) as page:
        yield page


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Admin", exact=True).click()


def sign_in(page: Page, password: str = PASSWORD) -> None:
    page.locator("#admin-password input").fill(password)
    page.click("#admin-sign-in")


def type_in(page: Page, name: str, value: object) -> None:
    page.locator(f"#job-{name} :is(input, textarea)").fill(str(value))


def points(page: Page) -> int:
    """Points of the training curve on the page."""
    return page.evaluate(
        "() => document.querySelector('#job-loss .js-plotly-plot')?.data?.[0]?.x?.length ?? 0"
    )


def test_a_fine_tune_from_the_form_to_compare(
    page: Page,
    elsewhere: Browser,
    address: str,
    settings: Settings,
    loader: LineupLoader,
    tmp_path: Path,
) -> None:
    photo = write_photo(tmp_path / "photo.png", seed=3)
    open_page(page, address)
    choose(page, photo)
    expect(page.locator(".photo-view figcaption")).to_contain_text(photo.name)
    before = compare(page)

    held: list[Route] = []  # what the tab asks when it is opened, to be answered late

    def hold(route: Route) -> None:
        is_opening = '"value":"Admin"' in (route.request.post_data or "").replace(" ", "")
        held.append(route) if is_opening else route.continue_()

    page.route("**/queue/join*", hold)
    open_tab(page)
    expect(page.locator("#job-new")).to_have_count(0)
    sign_in(page, "guess")
    expect(page.locator("#admin-sentence")).to_contain_text("The password is wrong")
    page.wait_for_timeout(1100)  # wrong passwords are slowed down
    sign_in(page)
    expect(page.locator("#job-preview")).to_contain_text("python -m qvla train")
    assert held
    for route in held:
        route.continue_()
    page.unroute("**/queue/join*")
    expect(page.locator("#job-list")).to_contain_text("No fine-tune has been queued yet")
    for name, value in (
        ("splits", "trian"),
        ("max-steps", STEPS),
        ("learning-rate", 0.02),
        ("batch-size", 4),
    ):
        type_in(page, name, value)
    expect(page.locator("#job-problem")).to_contain_text("no row in the split 'trian'")
    type_in(page, "splits", "train")
    expect(page.locator("#job-cards").get_by_label("Custom")).to_be_checked()
    page.get_by_text("More settings").click()
    page.locator("#job-bf16 input").uncheck()  # slow on processors without instructions for it
    for name in ("log-steps", "eval-steps"):
        type_in(page, name, 1 if name == "log-steps" else STEPS // 2)
    expect(page.locator("#job-preview .facts")).to_contain_text(re.compile(rf"{STEPS}, from 8"))
    expect(page.locator("#job-problem [role=alert]")).to_have_count(0)
    page.click("#job-submit")

    head = page.locator("#job-head")
    expect(head).to_contain_text("adapter on mini")
    page.wait_for_function(  # the curve moves
        "() => (document.querySelector('#job-loss .js-plotly-plot')?.data?.[0]?.x?.length ?? 0) > 0"
    )
    first = points(page)
    expect(head.locator(".chip")).to_have_attribute("data-state", "done")
    expect(page.locator("#job-samples li img")).to_have_count(2)
    page.wait_for_function(
        f"() => document.querySelector('#job-loss .js-plotly-plot').data[0].x.length === {STEPS}"
    )
    assert 0 < first <= STEPS
    expect(page.locator("#job-samples")).to_contain_text(f"step {STEPS}")
    expect(page.locator("#job-log")).to_contain_text(f"{STEPS} steps")
    expect(page.locator("#job-samples li").first).to_contain_text("before")
    type_in(page, "name", "Rivers")
    page.click("#job-label")
    expect(page.locator("#job-list")).to_contain_text("Rivers")
    page.get_by_role("button", name="Curves of several jobs").click()
    expect(page.locator("#together-plot .main-svg").first).to_be_visible()
    page.click("#job-duplicate")
    expect(page.locator("#job-max-steps :is(input, textarea)")).to_have_value(str(STEPS))
    expect(page.locator("#job-preview .facts")).to_contain_text(re.compile(rf"{STEPS}, from 8"))
    page.get_by_text("New fine-tune").click()
    [job] = Jobs(settings).all()
    adapter = Jobs(settings).adapter(job.id)

    page.click("#job-publish")
    expect(page.locator("#job-question")).to_contain_text("in place of the one")
    page.click("#job-publish-it")
    expect(page.locator("#job-message")).to_contain_text("answers with this adapter now")
    page.get_by_role("tab", name="Compare").click()
    choose(page, photo)  # again: the captions of before go
    expect(page.locator('.pane[data-state="idle"]')).to_have_count(3)
    now = compare(page)
    alone = Lineup.load(EMBEDDED_MODEL, adapter=adapter, variants=["adapter"], device="cpu")
    [expected] = caption(alone, [open_image(photo)], ["adapter"])
    assert now[1].strip() == as_read(expected["adapter"].text) != before[1].strip()
    assert (now[0], now[2]) == (before[0], before[2])
    expect(page.locator('.pane[data-variant="adapter"]')).to_contain_text(f"job {job.id[-8:]}")

    page.reload()  # the session and all of the job are still there
    open_tab(page)
    expect(head.locator(".chip")).to_have_attribute("data-state", "done")
    expect(page.locator("#job-list .chip[data-state=live]")).to_have_text("Adapter pane")
    expect(page.locator("#job-loss .main-svg").first).to_be_visible()
    assert points(page) == STEPS
    expect(page.locator("#job-file")).to_be_hidden()
    with page.expect_download() as download:
        page.click("#job-download")
    with zipfile.ZipFile(download.value.path()) as packed:
        weights = packed.read("adapter_model.safetensors")
    assert weights == (adapter / "adapter_model.safetensors").read_bytes()

    other = elsewhere.new_page()  # another browser has to sign in, and then sees the same
    open_page(other, address)
    open_tab(other)
    expect(other.locator("#admin-password")).to_be_visible()
    assert job.id not in other.content()
    expect(other.locator("#job-list, #job-head")).to_have_count(0)
    sign_in(other)
    expect(other.locator("#job-head")).to_contain_text(job.id[-8:])
    other.close()

    page.click("#job-take-back")
    expect(page.locator("#job-message")).to_contain_text("as the settings say")
    assert loader.lineup.variant("adapter").adapter == "adapter"
    check_looks(page)

    page.click("#job-delete")
    expect(page.locator("#job-delete-it")).to_be_visible()
    assert adapter.is_dir()
    page.click("#job-delete-it")
    expect(page.locator("#job-list")).to_contain_text("No fine-tune has been queued yet")
    assert not adapter.exists()
    page.click("#admin-sign-out")
    expect(page.locator("#admin-sentence")).to_contain_text("You are signed out")


def check_looks(page: Page) -> None:
    """On a telephone nothing scrolls sideways; text stands out, in the dark too."""
    text = page.locator("#admin-tab-content :is(h2, h3, p, li, dt, dd, th, summary, small, pre, b)")
    for theme in ("light", "dark"):
        page.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
        found = text.evaluate_all(CONTRASTS)
        assert len(found) > 30
        assert [pair for pair in found if pair[0] < 4.5] == []
    page.get_by_text("New fine-tune").click()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function(  # figures take a moment to take the new width
        "document.documentElement.scrollWidth <= 390 && "
        "[...document.querySelectorAll('#admin-tab-content *')].filter(e => e.checkVisibility()"
        " && !e.closest('pre, .sr-only, svg *')).every(e => e.getBoundingClientRect().right <= 391)"
    )
    page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.slow
def test_the_link_of_the_terminal_opens_the_tab_once(
    profile: BrowserContext, elsewhere: Browser, settings: Settings, loader: LineupLoader
) -> None:
    link = "x" * 32
    changes = {"admin_password": None, "admin_link": SecretStr(link)}
    with served(settings.model_copy(update=changes), loader) as address:
        first, second = forget(profile, address).new_page(), elsewhere.new_page()
        asked: list[Request] = []
        first.on("request", lambda one: asked.append(one) if "queue/join" in one.url else None)
        for page in (first, second):
            page.set_default_timeout(PATIENCE)
            page.goto(f"{address}?admin={link}")
            if page is first:
                expect(page.locator("#admin-name")).to_contain_text("Signed in as")
                expect(page.locator("#job-submit")).to_be_visible()
        # Opening the tab asks who is there: before the link is answered, that would shut it again.
        opened = [json.loads(one.post_data or "{}") for one in asked]
        opened = [one for one in opened if "Admin" in str(one.get("event_data"))]
        assert opened and all(one["data"][0] for one in opened)
        expect(second.locator("#admin-sentence")).to_contain_text("Start the app again")
        expect(second.locator("#job-submit")).to_be_hidden()
        assert link not in first.url and link not in second.url
        first.reload()  # the session stays in the browser, the link is gone
        open_tab(first)
        expect(first.locator("#admin-name")).to_contain_text("Signed in as")
        second.close()
