"""Links to a comparison, what they may ask for, and the picture card."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from qvla.ui.compare.card import EDGE, PHOTO, WIDTH, as_uri, draw_card
from qvla.ui.compare.history import MOST_NOTE, Comparison, keyed, link_of, render_history
from qvla.ui.compare.links import Link, LinkError, link_to, read_link
from qvla.ui.panes import Pane, PaneState

DIGEST = "0123456789abcdef" * 4
DECODING = {"max_new_tokens": 20, "num_beams": 3, "temperature": 0.0, "top_p": 0.9, "seed": 7}
PANES = (
    Pane("base", PaneState.DONE, text="a river", model="mini", precision="fp32", seconds=1.0),
    Pane("lora-16", PaneState.FAILED, message="No memory.", called="LoRA, rank 16"),
)
ENTRY = Comparison(
    *("2026-01-01T10:00:00+00:00", "my river & field.png", "data:image/webp;base64,", DECODING),
    *(("one",), PANES, "a note", "0f", "/tmp/secret/river.png", DIGEST, ""),
)


def test_a_link_says_again_what_was_compared_and_nothing_of_the_photo() -> None:
    link = read_link(link_of(ENTRY))
    assert (link.photo, link.name, link.example) == (DIGEST, "my river & field.png", "")
    assert link.panes == ("base", "lora-16") and link.decoding == (20, 3, 0.0, 0.9, "7")
    assert "secret" not in link_of(ENTRY) and "note" not in link_of(ENTRY)
    named = read_link(link_of(replace(ENTRY, example="river.png")))
    assert (named.example, named.photo, named.name) == ("river.png", "", "")
    assert link_of(replace(ENTRY, digest="")) == ""
    assert read_link(link_to({}, [], example="a.png")).decoding == Link().decoding


@pytest.mark.parametrize("query", ["", "?", "?panes=base", "?__theme=dark", None, "example=a"])
def test_an_address_without_a_photo_is_no_link(query: str) -> None:
    assert read_link(query) is None


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("?photo=xyz", "photo"),
        ("?example=a&max_new_tokens=500", "max_new_tokens"),
        ("?example=a&temperature=nan", "temperature"),
        ("?example=a&panes=../etc,base", "panes"),
        ("?example=a&seed=-1", "seed"),
        ("?example=a&" + "x" * 3000, "too long"),
    ],
)
def test_a_link_that_makes_no_sense_says_where(query: str, wrong: str) -> None:
    with pytest.raises(LinkError, match=wrong):
        read_link(query)


def test_the_history_offers_each_entry_by_a_key_of_its_own() -> None:
    first, second = keyed([replace(ENTRY, key=""), ENTRY])
    assert first.key and second is ENTRY and first.key != second.key
    page = render_history([replace(ENTRY, note='"><script>', photo="<b>")])
    assert "<script>" not in page and "<b><b>" not in page
    assert 'data-key="0f"' in page and "3 beams, up to 20 tokens" in page
    assert f'maxlength="{MOST_NOTE}"' in page and "data-copy-link" in page
    assert "data-key" not in render_history([replace(ENTRY, key="")])


def drawn(entry: Comparison, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return draw_card(entry, Image.new("RGB", size, "#123456"))


def test_a_card_holds_photo_and_captions_and_grows_with_them() -> None:
    card = drawn(ENTRY)
    assert (card.mode, card.width) == ("RGB", WIDTH)
    assert card.getpixel((EDGE + PHOTO // 2, EDGE + PHOTO // 4)) == (0x12, 0x34, 0x56)
    other = drawn(replace(ENTRY, panes=(replace(PANES[0], text="a field"), PANES[1])))
    assert other.size == card.size and other.tobytes() != card.tobytes()
    many = drawn(replace(ENTRY, panes=PANES * 3))
    assert many.height > card.height
    odd = replace(PANES[0], text="w" * 500 + " 河流 éü " + "far " * 200, called="河")
    assert drawn(replace(ENTRY, panes=(odd,), photo="x" * 255, note="n " * 150), (1, 900)).width
    assert as_uri(card).startswith("data:image/png;base64,iVBOR")
