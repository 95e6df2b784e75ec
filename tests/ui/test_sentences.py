"""Captions as the page shows them."""

from __future__ import annotations

import pytest

from qvla.ui.sentences import as_sentence, marked, own_words, pieces_of


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a river , and trees .", "A river, and trees."),
        ("A river.", "A river."),
        ("two .5 m paths , a : b ;", "Two .5 m paths, a: b;"),
        ("élan ! ?", "Élan!?"),
        ("a river", "A river"),
        ("", ""),
    ],
)
def test_a_caption_is_shown_as_a_sentence(said: str, shown: str) -> None:
    assert as_sentence(said) == shown
    for pieces in (pieces_of(said), [(letter, False) for letter in said]):
        assert marked(pieces).replace("<span>", "").replace("</span>", "") == shown


def test_shared_words_keep_their_marks_and_nothing_becomes_markup() -> None:
    pieces = [("trees", True), (" , ", False), ("<b>", False), (" ", False), (".", False)]
    assert marked(pieces, {"trees"}) == (
        '<mark class="own">Trees</mark><span>, </span><span>&lt;b&gt;</span><span>.</span>'
    )


def test_own_words_are_those_that_no_other_text_has() -> None:
    texts = ["the wide River is green .", "a river near Trees", "a river and trees"]
    assert own_words([pieces_of(text) for text in texts]) == [{"wide", "green"}, {"near"}, set()]
