"""The app as a newcomer opens it: the embedded model, a real photo from disk, three captions."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import BrowserContext, expect

from qvla.captioning.contenders import VARIANTS
from qvla.captioning.engine import caption
from qvla.captioning.generation import Caption
from qvla.captioning.loader import LineupLoader
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.evaluation.certainty import tells_apart, thresholds_of
from qvla.records import store as records
from qvla.settings import EMBEDDED_MODEL, Settings
from tests.support import waiting
from tests.support.serving import served
from tests.support.visitor import as_read, choose, compare, forget, open_page

pytestmark = pytest.mark.browser


def words(captions: dict[str, Caption]) -> list[str]:
    """How sure each caption is, "" where the evaluation that ships has no word for it."""
    kept = records.find("evaluation", [records.SHIPPED], pytest.fail)
    known = [one.record for one in kept if thresholds_of(one.record, "adapter")]
    largest = max(known, key=lambda record: record.items)
    return [
        thresholds_of(largest, name).word(captions[name].log_probability)
        if tells_apart(largest, name)
        else ""
        for name in VARIANTS
    ]


def test_a_real_photo_gets_three_captions_of_real_weights(profile: BrowserContext) -> None:
    settings = Settings(model=str(EMBEDDED_MODEL), device="cpu")
    loader = LineupLoader.of(settings).start()
    lineup = loader.wait(waiting.PATIENCE)
    for photo in (example.image for example in read_examples(settings.examples)):
        said = caption(lineup, [open_image(photo)])[0]
        differ = len({said[name].text for name in VARIANTS}) == 3
        if differ and {"unsure", "guessing"} & set(words(said)):
            break
    else:
        pytest.fail("of every example two variants say the same, or all are sure")

    with served(settings, loader) as address:
        page = forget(profile, address).new_page()
        open_page(page, address)
        expect(page.locator("#banner")).to_contain_text("The small model that comes with QVLA")
        choose(page, photo)
        expect(page.locator(".photo-view figcaption")).to_contain_text(photo.name)
        shown = compare(page)
        expect(page.locator(".pane .certainty")).to_have_text(words(said))

    assert [text.strip() for text in shown] == [as_read(said[name].text) for name in VARIANTS]
