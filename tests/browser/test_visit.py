"""A visit to the Compare tab in a real browser: what every pane says, turns, reloads, lost servers.

Captions come from a script (`tests.support.scripted`), so no weights are needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from gradio.utils import get_upload_folder
from playwright.sync_api import APIResponse, BrowserContext, Page, Route, expect

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import ASSETS, Settings
from qvla.ui.compare import comparison
from qvla.ui.compare.turns import NOT_TAKEN
from qvla.ui.panes import PaneState
from tests.support.scripted import Script, panes
from tests.support.serving import never_asking_for_weights, served, write_photo, write_risc_folder
from tests.support.visitor import choose, forget
from tests.support.waiting import until

pytestmark = pytest.mark.browser

REFERENCES = ["a river next to green trees ."]
ALL_PANES = 3
PHOTO = ASSETS / "examples" / "resized" / "beach.jpg"
# Said when a page comes into sight, which then asks at once and not at its next turn.
LOOKED_AT = "document.dispatchEvent(new Event('visibilitychange'))"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("app")
    rows = [("UCM", "train", "seen.png", REFERENCES), ("UCM", "val", "held.png", REFERENCES)]
    return Settings(
        model=str(home / "no-model"),
        data=write_risc_folder(home / "risc", rows),
        examples=write_risc_folder(home / "examples", rows[1:]),
        records=home / "records",
        jobs=home / "jobs",
        admin_password="open sesame",
        device="cpu",
        concurrency=1,
        queue_size=1,
    )


@pytest.fixture(scope="module")
def loader() -> LineupLoader:
    return LineupLoader(lambda progress: None)  # never started: the page is there without weights


@pytest.fixture(scope="module")
def address(settings: Settings, loader: LineupLoader) -> Iterator[str]:
    with never_asking_for_weights(), served(settings, loader) as address:
        yield address


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    script = Script()
    monkeypatch.setattr(comparison, "compare", script)
    yield script
    script.gate.set()


def visit(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#examples .tile")).to_have_count(1)
    choose(page, PHOTO)
    expect(page.locator(".photo-view figcaption")).to_contain_text(PHOTO.name)
    return page


def says(page: Page, state: PaneState, sentence: str) -> None:
    """What a person reads in each pane, as the browser lays it out."""
    expect(page.locator(f'.pane[data-state="{state.value}"]')).to_have_count(ALL_PANES)
    for name in ("base", "adapter", "qvla"):
        pane = page.locator(f'.pane[data-variant="{name}"]')
        expect(pane.locator(".caption")).to_have_text(f"{sentence} ({name})", use_inner_text=True)


# ---- one visit: panes, who cannot see, the gallery -----------------------------------------------


@pytest.fixture(scope="module")
def page(profile: BrowserContext, address: str) -> Page:
    """For the tests that leave a page as good as new, because opening it is what takes longest."""
    return visit(forget(profile, address), address)


def test_every_pane_says_what_was_sent(page: Page, loader: LineupLoader, script: Script) -> None:
    for number, state in enumerate((*PaneState, PaneState.FAILED)):
        script.gate.clear()
        sentence = f"Sentence {number} of a pane that is {state.value}"
        script.steps = [panes(loader, state, sentence), panes(loader, PaneState.DONE, text="done")]
        if not state.busy:
            script.steps.pop()
            script.gate.set()
        page.click("#compare")
        says(page, state, sentence)
        spoken = page.locator("#panes [role=status]")
        if state.busy:
            expect(spoken).to_have_text("Captions are being written.")
        elif state is not PaneState.IDLE:
            expect(spoken).to_contain_text(f"{sentence} (base)")
        script.gate.set()
        expect(page.locator("#stop")).to_be_disabled()
        if state.busy:
            expect(page.locator('.pane[data-state="done"]')).to_have_count(ALL_PANES)


def test_who_cannot_see_the_page_is_told_what_is_on_it(page: Page) -> None:
    for name in ("Decoding options", "Gallery"):
        button = page.get_by_role("button", name=name, exact=True)
        expect(button).to_have_attribute("aria-expanded", "false")
        button.click()
        expect(button).to_have_attribute("aria-expanded", "true")
    for name in ("Compare", "Ask", "Memory", "Latency", "CIDEr", "Admin"):
        page.get_by_role("tab", name=name, exact=True).click()
        panel = page.locator(f"#{name.lower()}-tab")
        expect(panel.locator("h2").first).to_be_visible()
        levels = page.locator("h1, h2, h3, h4, h5, h6").evaluate_all(
            "all => all.filter(e => e.checkVisibility()).map(e => Number(e.tagName[1]))"
        )
        steps = [after - before for before, after in pairwise(levels)]
        assert levels[0] == 1 and levels.count(1) == 1 and max(steps) <= 1, (name, levels)
    password = page.locator("#admin-password input")
    expect(password).to_have_attribute("autocomplete", "current-password")
    page.get_by_role("tab", name="Compare", exact=True).click()


def test_the_gallery_opens_on_photos_that_no_model_was_trained_on(page: Page) -> None:
    button = page.get_by_role("button", name="Gallery", exact=True)
    if button.get_attribute("aria-expanded") == "false":  # it is open after the test before
        button.click()
    tiles = page.locator("#gallery-grid .tile")
    expect(tiles).to_have_count(1)
    expect(page.locator("#gallery-note")).to_contain_text("1 photo, page 1 of 1")
    for name in ("Previous", "Next"):
        expect(
            page.locator("#gallery").get_by_role("button", name=name, exact=True)
        ).to_be_disabled()
    expect(page.locator("#gallery .tile-mark")).to_have_count(0)
    page.locator("#gallery").get_by_label("Split").click()
    page.get_by_role("option", name="all").click()
    expect(tiles).to_have_count(2)
    marked = page.locator("#gallery-grid .tile", has=page.locator(".tile-mark"))
    expect(marked).to_have_attribute("data-key", "seen.png")
    expect(marked).to_have_attribute("aria-label", f"{REFERENCES[0]} (train photo)")
    page.set_viewport_size({"width": 390, "height": 844})
    for box in page.locator('#gallery input[role="combobox"]').all():
        room = box.evaluate(
            """input => input.parentElement.querySelector("svg").getBoundingClientRect().left
                - (input.getBoundingClientRect().right
                    - parseFloat(getComputedStyle(input).paddingRight))"""
        )
        assert room >= 0, "its text runs under its arrow"


# ---- visits of their own -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_refused_comparison_says_why_and_says_it_again(
    profile: BrowserContext, settings: Settings
) -> None:
    """The real comparison without weights, and with options that make no sense."""

    def load(progress: object) -> None:
        raise QvlaError("The disk came off: plug it in.")

    own = settings.model_copy()
    with served(own, LineupLoader(load).start()) as address:
        page = visit(forget(profile, address), address)
        for _ in range(2):
            page.click("#compare")
            caption = page.locator('.pane[data-state="failed"] .caption')
            expect(caption).to_have_text(["The disk came off: plug it in."] * ALL_PANES)
            expect(page.locator("#stop")).to_be_disabled()


# ---- turns ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_waits_is_told_so_and_can_leave(
    context: BrowserContext, address: str, loader: LineupLoader, script: Script
) -> None:
    done = panes(loader, PaneState.DONE, text="An answer of")
    script.steps = [panes(loader, PaneState.STREAMING, text="A word of"), done]
    script.gate.set()
    second = visit(context, address)
    second.click("#compare")
    answer = second.locator(".pane .caption").first
    expect(answer).to_have_text("An answer of base")

    script.gate.clear()
    first = visit(context, address)
    first.click("#compare")
    expect(first.locator(".pane .caption").first).to_contain_text("A word of base")
    second.click("#compare")  # behind the first, with old captions on the screen
    expect(answer).to_have_text("Waiting for a turn…")
    expect(second.locator('.pane[data-state="waiting"]')).to_have_count(ALL_PANES)

    third = visit(context, address)
    third.click("#compare")  # one more than may wait
    expect(third.locator('.pane[data-state="failed"] .caption').first).to_have_text(NOT_TAKEN)
    expect(third.locator("#stop")).to_be_disabled()

    second.click("#stop")
    expect(answer).to_have_text("You stopped it before its turn came.")
    expect(second.locator("#stop")).to_be_disabled()
    turns = len(script.asked)
    script.gate.set()
    expect(first.locator(".pane .caption").first).to_have_text("An answer of base")
    until(lambda: httpx.get(f"{address}health").json()["queue"]["waiting"] == 0)
    third.click("#compare")  # after the turn that the second did not take
    expect(third.locator(".pane .caption").first).to_have_text("An answer of base")
    assert len(script.asked) == turns + 1
    expect(answer).to_have_text("You stopped it before its turn came.")
    second.click("#compare")
    expect(answer).to_have_text("An answer of base")


@contextmanager
def keeping(page: Page, text: str) -> Iterator[None]:
    """Until the server has handed the browser a visit with this text, and the browser has it."""
    before = page.evaluate("localStorage.getItem('qvla-visit')")
    with page.expect_response(lambda answer: "/run/" in answer.url and text in answer.text()):
        yield
    page.wait_for_function("before => localStorage.getItem('qvla-visit') !== before", arg=before)


# ---- reloads -------------------------------------------------------------------------------------


def test_a_reload_loses_nothing(
    context: BrowserContext, address: str, loader: LineupLoader, script: Script, tmp_path: Path
) -> None:
    script.steps = [panes(loader, PaneState.DONE, text="many planes of")]
    script.gate.set()
    page = visit(context, address)
    choose(page, write_photo(tmp_path / "my field.png", size=(90, 60)))
    expect(page.locator(".photo-view figcaption")).to_contain_text("my field.png")
    page.get_by_role("button", name="Panes", exact=True).click()
    ticks = page.locator("#pane-names input")
    expect(ticks).to_have_count(ALL_PANES)
    with keeping(page, '"chosen_panes":["base","qvla"]'):
        page.get_by_role("checkbox", name="Adapter").uncheck()
    page.wait_for_url("**/?panes=base,qvla")
    expect(page.locator(".pane h3")).to_have_text(["Base", "QVLA"])
    page.get_by_role("checkbox", name="QVLA").uncheck()
    expect(page.locator("#pane-note")).to_contain_text("Choose 2 to 6 panes")
    expect(page.locator(".pane h3")).to_have_text(["Base", "QVLA"])
    page.get_by_role("checkbox", name="QVLA").check()
    expect(page.locator("#pane-note")).not_to_contain_text("Choose")
    page.click("#compare")
    expect(page.locator("table.history tbody tr")).to_have_count(1)
    expect(page.locator(".pane h3")).to_have_text(["Base", "QVLA"])
    with keeping(page, 'many planes of base"'):
        page.locator("#references textarea").fill("many planes of base")
    shared = page.locator(".pane").first.locator("mark")
    expect(shared).not_to_have_count(0)
    expect(page.locator("table.history td[data-title] > small").first).to_contain_text("CIDEr-D")
    figures = page.locator(".pane .scores dd").all_inner_texts()
    page.get_by_role("tab", name="Latency").click()
    assert page.url.endswith("#latency")

    page.reload()
    expect(page.get_by_role("tab", name="Latency")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#latency-tokens-table")).to_be_visible()
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator(".photo-view figcaption")).to_contain_text("my field.png")
    expect(page.locator(".pane .caption").first).to_have_text("Many planes of base")
    expect(page.locator(".pane h3")).to_have_text(["Base", "QVLA"])
    page.get_by_role("button", name="Panes", exact=True).click()
    for name in ("Base", "QVLA"):
        expect(page.get_by_role("checkbox", name=name)).to_be_checked()
    expect(page.get_by_role("checkbox", name="Adapter")).not_to_be_checked()
    expect(page.locator(".pane .scores dd")).to_have_text(figures)
    expect(page.locator("#references textarea")).to_have_value("many planes of base")
    expect(page.locator("table.history tbody tr")).to_have_count(1)
    with page.expect_download() as download:
        page.click("#history-json")
    [entry] = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert entry["references"] == ["many planes of base"]
    with keeping(page, '"visited"'):
        page.click("#compare")  # the photo is still the photo
    expect(page.locator("table.history tbody tr")).to_have_count(2)

    for file in Path(get_upload_folder()).rglob("my field.png"):
        file.unlink()
    page.reload()
    expect(page.locator(".photo-problem")).to_contain_text("no longer on the server")
    expect(page.locator("table.history tbody tr")).to_have_count(2)
    with keeping(page, '"visited":[]'):
        page.click("#history-clear")
    expect(page.locator("table.history")).to_have_count(0)
    expect(page.locator("#history-csv")).to_be_disabled()
    page.goto(f"{address}?panes=qvla,base")  # a link goes before what the browser keeps
    expect(page.locator("#history")).to_contain_text("Nothing compared yet")
    expect(page.locator(".pane h3")).to_have_text(["QVLA", "Base"])
    assert page.locator("table.history").count() == 0


@pytest.mark.slow
def test_a_photo_that_is_chosen_before_the_page_has_opened_stays(
    context: BrowserContext, address: str, tmp_path: Path
) -> None:
    before, now = (write_photo(tmp_path / f"{name}.png") for name in ("before", "now"))
    page = context.new_page()
    page.goto(address)
    caption = page.locator(".photo-view figcaption")
    choose(page, before)
    expect(caption).to_contain_text(before.name)
    page.wait_for_function("localStorage.getItem('qvla-visit')?.length > 100")
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        if held:
            route.continue_()
        else:  # what the page opens with
            held.append((route, route.fetch()))

    page.route("**/gradio_api/run/**", hold)
    page.reload()
    page.locator("#photo-file").wait_for(state="attached")
    with page.expect_response("**/gradio_api/upload*"):
        choose(page, now)
    page.wait_for_timeout(1000)  # in which it would be taken
    until(lambda: page.wait_for_timeout(20) or held)
    opens, answer = held[0]
    opens.fulfill(response=answer)
    expect(caption).to_contain_text(now.name)
    page.wait_for_timeout(200)
    expect(caption).to_contain_text(now.name)


@pytest.mark.slow
def test_the_banner_does_not_stay_ready_without_a_server(
    context: BrowserContext, address: str
) -> None:
    page = context.new_page()
    page.goto(address)
    banner = page.locator("#banner")
    status = "Loading the weights"
    expect(banner).to_contain_text(status, use_inner_text=True)
    page.wait_for_function("document.documentElement.dataset.server === ''")
    for answer, sentence in (
        (lambda route: route.abort(), "this page goes on as soon as it answers again"),
        (lambda route: route.fulfill(json={"app_id": 7}), "reload the page to go on"),
    ):
        page.route("**/app_id", answer)
        page.evaluate(LOOKED_AT)
        expect(banner).to_contain_text("The app does not answer.", use_inner_text=True)
        expect(banner).to_contain_text(sentence, use_inner_text=True)
        expect(banner).not_to_contain_text(status, use_inner_text=True)
    page.unroute("**/app_id")
    expect(banner).to_contain_text(status, use_inner_text=True)
    expect(banner).not_to_contain_text("The app does not answer.", use_inner_text=True)
