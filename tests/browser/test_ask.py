"""The Ask tab in a real browser, with tiny models of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

from qvla.captioning.loader import LineupLoader
from qvla.settings import Settings
from tests.support import waiting
from tests.support.alone import Alone
from tests.support.evaluations import write_answers
from tests.support.serving import add_adapters, served, write_risc_folder
from tests.support.tiny import build_tiny
from tests.support.visitor import as_read

pytestmark = pytest.mark.browser

QUESTION, OTHER = "Are many planes parked?", "Is the beach white?"
LENGTH = 40  # tokens, as the page asks for


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("app")
    rows = [("UCM", "val", f"photo{n}.png", ["a river next to green trees ."]) for n in range(2)]
    examples = write_risc_folder(home / "examples", rows)
    (examples / "questions.csv").write_text(
        f"ID,Question,Answer,Filename\n1,{QUESTION},yes,photo1.png\n2,{OTHER},no,photo1.png\n"
    )
    model = add_adapters(build_tiny(home / "model"))
    write_answers(home, {"base": {"1": "Yes.", "2": "yes"}, "adapter": {"1": "no", "2": "yes"}})
    return Settings(model=str(model), examples=examples, device="cpu", records=home / "records")


@pytest.fixture(scope="module")
def address(settings: Settings) -> Iterator[str]:
    loader = LineupLoader.of(settings).start()
    assert loader.wait(waiting.PATIENCE) is not None
    with served(settings, loader) as address:
        yield address


@pytest.fixture(scope="module")
def said(settings: Settings) -> dict[str, str]:
    """What base and adapter, each loaded alone, answer to QUESTION."""
    image = Image.open(settings.examples / "resized" / "photo1.png").convert("RGB")
    model = Path(settings.model)
    prompt = f"<image>answer en {QUESTION}"
    return {
        name: Alone(model, adapter).text(image, prompt=prompt, max_new_tokens=LENGTH)
        for name, adapter in (("base", None), ("adapter", model / "adapter"))
    }


def visit(context: BrowserContext, address: str, width: int, theme: str) -> Page:
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{address}?__theme={theme}")
    expect(page.locator("#banner")).to_contain_text("Ready")
    page.get_by_role("tab", name="Ask", exact=True).click()
    expect(page.locator("#ask-panes .pane")).to_have_count(3)
    return page


def test_a_question_is_answered_and_scored(
    context: BrowserContext, address: str, said: dict[str, str]
) -> None:
    page = visit(context, address, 1280, "light")
    question, right = page.locator("#ask-question textarea"), page.locator("#ask-right textarea")
    page.click("#ask")
    expect(page.locator("#ask-photo .photo-problem")).to_contain_text("Choose a photo first.")
    page.locator("#ask-examples .tile").nth(1).click()
    expect(question).to_have_value(QUESTION)
    expect(right).to_have_value("yes")
    page.locator("#ask-suggestions .suggestion", has_text=OTHER).press("Enter")
    expect(question).to_have_value(OTHER)
    expect(right).to_have_value("no")
    question.fill("Is <eos> there?")
    page.click("#ask")
    expect(page.locator("#ask-problem")).to_contain_text("cannot be asked: it holds <eos>")

    question.fill(QUESTION)
    question.press("Enter")
    expect(page.locator('#ask-panes .pane[data-state="done"]')).to_have_count(3)
    expect(page.locator("#ask-problem")).to_be_empty()
    for name, text in said.items():
        expect(page.locator(f'#ask-panes [data-variant="{name}"] .caption')).to_have_text(
            as_read(text)
        )
    expect(page.locator("#ask-vocabulary")).to_contain_text("lacks '?': ask in other words.")
    scores = page.locator('#ask-panes [data-variant="base"] .scores dd')
    expect(scores.first).to_have_text("0.00")
    right.fill(f"nothing of it\n{said['base'].upper()}")
    expect(scores.nth(0)).to_have_text("1.00")
    expect(scores.nth(1)).to_have_text("1.00")
    expect(scores.nth(2)).to_have_text("1.00")

    page.click("#ask-pane-look")
    maps = page.locator("#ask-pane-looked img")
    expect(maps).to_have_count(3)
    assert all("looked most at the" in (maps.nth(n).get_attribute("alt") or "") for n in range(3))
    tiles = page.locator("#ask-grid .tile")  # of an evaluation
    expect(tiles).to_have_count(2)
    expect(page.locator("#ask-grid li span")).to_have_text(["1 of 2 right", "0 of 2 right"])
    tiles.nth(1).press("Enter")
    opened = page.locator("#ask-question-shown")
    expect(opened).to_contain_text(OTHER)
    expect(opened.locator(".score")).to_have_text(["not the right answer"] * 2)
    page.locator("#ask-show input").click()
    page.get_by_role("option", name="right and wrong").click()
    expect(tiles).to_have_count(1)
    tiles.first.click()
    expect(opened).to_contain_text(QUESTION)
    expect(opened.locator(".score")).to_have_text(["right", "not the right answer"])

    page.locator("#ask-examples .tile").first.click()
    expect(maps).to_have_count(0)
    expect(page.locator('#ask-panes .pane[data-state="idle"]')).to_have_count(3)
    expect(question).to_have_value(QUESTION)  # nothing is known of this one
    expect(right).to_have_value("")


@pytest.mark.slow
def test_on_a_telephone_in_the_dark(context: BrowserContext, address: str) -> None:
    page = visit(context, address, 390, "dark")
    page.locator("#ask-examples .tile").nth(1).press("Enter")
    expect(page.locator("#ask-question textarea")).to_have_value(QUESTION)
    page.locator("#ask").press("Enter")
    expect(page.locator('#ask-panes .pane[data-state="done"]')).to_have_count(3)
    page.locator("#ask-pane-look").press("Enter")
    expect(page.locator("#ask-pane-looked img")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert (
        page.evaluate(
            "() => [...document.querySelectorAll('[id]')].map(one => one.id)"
            ".filter((id, place, all) => id && all.indexOf(id) !== place)"
        )
        == []
    )


def test_programs_ask_as_pages_do(settings: Settings, address: str, said: dict[str, str]) -> None:
    client = Client(address, verbose=False)
    photo = handle_file(str(settings.examples / "resized" / "photo1.png"))
    right = f"{said['base']}\nyes"
    told = client.predict(photo, QUESTION, right, variants="base,adapter", api_name="/ask")
    assert {name: one["answer"] for name, one in told.items()} == said
    assert told["base"]["exact_match"] == told["base"]["f1"] == 1
    assert told["base"]["csns"] == pytest.approx(1) and told["base"]["seconds"] > 0
    for question, sentence in (("?" * 201, "201 characters"), (" ", "there is no question")):
        with pytest.raises(AppError, match=sentence):
            client.predict(photo, question, api_name="/ask")
