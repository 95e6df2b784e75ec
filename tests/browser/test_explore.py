"""The Explore tab in a real browser, wide and narrow, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from peft import LoraConfig
from playwright.sync_api import BrowserContext, Page, expect

from qvla.captioning.bank import Bank
from qvla.captioning.contenders import default_contenders
from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.methods.registry import METHODS
from qvla.models.architectures import PALIGEMMA_3B
from qvla.planning.explorer import explore
from qvla.settings import Settings
from tests.support.contrasts import CONTRASTS
from tests.support.serving import served
from tests.support.tiny import build_tiny
from tests.support.waiting import until

pytestmark = pytest.mark.browser
PASSWORD = "open sesame"


def no_weights(progress: object) -> None:
    raise QvlaError("These tests need no weights.")


SAID = """button => {
  window.said = [];
  new MutationObserver(() => window.said.push(button.innerText)).observe(button, {childList: true});
}"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("app") / "tiny")


@pytest.fixture(scope="module")
def address(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings(
        model=str(model),
        device="cpu",
        admin_password=PASSWORD,
        jobs=tmp_path_factory.mktemp("jobs"),
        worker="off",
    )
    bank = tmp_path_factory.mktemp("bank")
    LoraConfig(r=4, target_modules=["q_proj"]).save_pretrained(bank / "ships")
    loader = LineupLoader(no_weights, default_contenders(model), Bank(bank, str(model)))
    with served(settings, loader.start()) as address:
        yield address


def visit(context: BrowserContext, address: str, width: int, theme: str) -> Page:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{address}?__theme={theme}#explore")
    expect(page.locator("#explore-layers svg")).to_be_visible()
    return page


@pytest.mark.slow
@pytest.mark.parametrize(("width", "theme"), [(1280, "dark"), (390, "light")])
def test_it_can_be_read(context: BrowserContext, address: str, width: int, theme: str) -> None:
    page = visit(context, address, width, theme)
    if width > 390:  # the table is in a frame of its own
        page.click("#explore-compare")
        expect(page.locator("#explore-table tbody tr")).to_have_count(len(METHODS))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    content = page.locator("#explore-tab-content")
    text = content.locator(":is(h2, h3, p, li, dt, dd, td span, td small, th, text, code, button)")
    found = text.evaluate_all(CONTRASTS)
    # what stands on a lit matrix is judged by eye: its paper is no background
    assert len(found) > 100
    assert [pair for pair in found if pair[0] < 4.5 and not pair[1].isdigit()] == []
    sizes = content.locator(":is(td, th, p, li, dd, small)").evaluate_all(
        "all => Math.min(...all.filter(e => e.checkVisibility() && e.textContent.trim())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert sizes >= 12
    picture = page.locator("#explore-layers svg")
    scale = picture.evaluate("s => s.getBoundingClientRect().width / s.viewBox.baseVal.width")
    assert 12.5 * scale >= 11.5
    expect(page.get_by_role("img", name="Layers that are touched")).to_be_visible()
    plot = page.locator("#explore-parameters-plot svg.main-svg").first
    expect(plot).to_be_visible()
    shown = plot.evaluate("p => p.getBoundingClientRect().width / p.width.baseVal.value")
    assert shown == pytest.approx(1, abs=0.01)  # no style of the diagrams reaches it


def test_a_choice_is_counted_compared_and_sent_to_the_admin_form(
    context: BrowserContext, address: str, model: Path
) -> None:
    page = visit(context, address, 1280, "light")
    facts = page.locator("#explore-facts")
    page.locator("#explore-rank input").fill("4")
    page.locator("#explore-rank input").press("Enter")
    found = explore(model, "lora", rank=4, called=model.name)
    expect(facts).to_contain_text(f"{found.trainable_params:,} of {found.total_params:,}")
    expect(page.locator("#explore-code code").first).to_contain_text("--rank 4")
    copy = page.locator("#explore-code .copy").first
    copy.evaluate(SAID)  # what the button says it says for a moment only
    copy.click()
    until(lambda: page.evaluate("window.said").count("Copied"))
    assert page.evaluate("navigator.clipboard.readText()") == found.command

    page.click("#explore-compare")
    rows = page.locator("#explore-table tbody tr")
    expect(rows).to_have_count(len(METHODS))
    page.locator("#explore-table thead").get_by_role("button", name="Trained").click()
    values = rows.evaluate_all("all => all.map(r => Number(r.children[1].dataset.value))")
    assert values == sorted(values)
    with page.expect_download() as download:
        page.click("#explore-csv")
    assert download.value.suggested_filename.endswith(".csv")
    page.locator('#explore-table [data-method="bottleneck"]').click()
    expect(facts).to_contain_text(f"{explore(model, 'bottleneck').trainable_params:,} of")

    page.locator("#explore-model input").fill(PALIGEMMA_3B)
    page.locator("#explore-model input").press("Enter")
    expect(facts).to_contain_text("18,952,704 of")
    page.locator("#explore-reduction-factor input").fill("32")
    page.locator("#explore-reduction-factor input").press("Enter")
    expect(facts).to_contain_text(
        f"{explore(PALIGEMMA_3B, 'bottleneck', width=64).trainable_params:,}"
    )
    page.locator("#explore-precision input").click()
    page.get_by_role("option", name="NF4").click()
    expect(page.locator("#explore-code")).to_contain_text("--method qvla")
    page.click("#explore-admin")
    page.locator("#admin-password input").fill(PASSWORD)
    page.locator("#admin-sign-in").click()
    expect(page.locator("#job-model input")).to_have_value(PALIGEMMA_3B)
    expect(page.locator("#job-reduction-factor input")).to_have_value("32")
    expect(page.locator("#job-method").get_by_label("qvla", exact=True)).to_be_checked()

    page.get_by_role("tab", name="Explore", exact=True).click()
    page.locator("#explore-model input").fill("/etc")
    page.locator("#explore-model input").press("Enter")
    expect(page.locator("#explore-problem")).to_contain_text("neither a hub id nor in a folder")


@pytest.mark.slow
def test_what_exists_opens_in_compare_and_what_does_not_is_sent_to_the_form(
    context: BrowserContext, address: str
) -> None:
    page = visit(context, address, 390, "light")
    panes = page.locator("#panes .pane")
    page.click("#explore-compare")
    rows = page.locator("#explore-table tbody tr")
    expect(rows).to_have_count(len(METHODS))
    page.locator('#explore-table [data-tune="vera"]').click()
    page.locator("#admin-password input").fill(PASSWORD)
    page.locator("#admin-sign-in").click()
    expect(page.locator("#job-method").get_by_label("vera", exact=True)).to_be_checked()
    rank = page.locator("#job-rank input")
    expect(rank).to_have_value(str(METHODS["vera"].defaults["rank"]))

    page.evaluate("window.qvlaTab('explore')")  # which is in the menu of a narrow screen
    row = page.locator("#explore-table [data-pane]")
    expect(row).to_have_count(1)
    row.click()
    expect(panes.last).to_be_visible()
    shown = ["base", "adapter", "qvla", "ships"]
    expect(panes).to_have_count(len(shown))
    assert panes.evaluate_all("all => all.map(p => p.dataset.variant)") == shown
    page.reload()
    expect(panes).to_have_count(len(shown))  # the browser kept it

    page.evaluate("window.qvlaTab('explore')")  # which is in the menu of a narrow screen
    page.get_by_role("button", name="Compare ships…").click()
    expect(panes.last).to_be_visible()
    assert panes.evaluate_all("all => all.map(p => p.dataset.variant)") == shown
