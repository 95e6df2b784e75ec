"""The app as a newcomer opens it: the embedded model, a real photo from disk, three captions."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, expect

from qvla.captioning.contenders import VARIANTS
from qvla.captioning.engine import caption
from qvla.captioning.loader import LineupLoader
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.settings import EMBEDDED_MODEL, Settings
from tests.support import waiting
from tests.support.serving import served
from tests.support.visitor import choose, compare, open_page

pytestmark = pytest.mark.browser


def test_a_real_photo_gets_three_captions_of_real_weights(browser: Browser) -> None:
    settings = Settings(model=str(EMBEDDED_MODEL), device="cpu")
    loader = LineupLoader.of(settings).start()
    lineup = loader.wait(waiting.PATIENCE)
    # photos on which no two variants say the same
    photos = [example.image for example in read_examples(settings.examples)]
    said = {photo: caption(lineup, [open_image(photo)])[0] for photo in photos}
    photo = next(p for p in photos if len({said[p][name].text for name in VARIANTS}) == 3)

    with served(settings, loader) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        open_page(page, address)
        expect(page.locator("#banner")).to_contain_text("The small model that comes with QVLA")
        choose(page, photo)
        expect(page.locator(".photo-view figcaption")).to_contain_text(photo.name)
        shown = compare(page)
        page.close()

    assert [text.strip() for text in shown] == [said[photo][name].text for name in VARIANTS]
