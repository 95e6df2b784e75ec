"""What the page's terms mean, in a sentence or two, told by a pop-over where a term stands.

The browser's own popover does it: a button opens it by click, touch or Enter, Escape closes it, and
no script is needed. Each text is in the page once (`pop_overs`), however often its term stands.
"""

from __future__ import annotations

from html import escape

TERMS = {
    "QVLA": "Quantised Vision-Language Adapter: the base model's weights in 4 bits (NF4), and an "
    "adapter trained on top of them.",
    "NF4": "4-bit NormalFloat: each weight is stored as one of 16 values that lie as densely as a "
    "normal distribution, with a scale for each block of weights. It takes an eighth of the memory "
    "of 32 bits.",
    "Adapter": "A small number of new weights beside those of the base model. They alone are "
    "trained; the base stays as it is.",
    "Bottleneck": "The adapter used here: behind a part of each layer, one small layer down to few "
    "values and one up again, whose output is added (Houlsby and others, 2019).",
    "CIDEr-D": "How many sequences of one to four words a caption shares with those that people "
    "wrote, rare ones counting more. 0 is none; 10 is the most.",
    "ROUGE-L": "How much of a caption and of a reference is one sequence of words in the same "
    "order. 0 is none; 1 is all.",
    "Token": "A piece of text that the model reads or writes at once: a word, or a part of one.",
    "Protocol": "How captions are prepared and scored, in every step. Scores of two protocols "
    "cannot be compared.",
}


def term(name: str, shown: str = "") -> str:
    """A button with the term, as it is or as it is `shown`, that tells what it means."""
    return (
        f'<button type="button" class="term" popovertarget="{_id(name)}">'
        f"{escape(shown or name)}</button>"
    )


def explained(text: str) -> str:
    """The text as HTML: as a button if it is a term, else as it is."""
    return term(text) if text in TERMS else escape(text)


def pop_overs() -> str:
    """All texts, each out of sight until its term is pressed."""
    return "".join(
        f'<div popover id="{_id(name)}" class="term-text"><b>{escape(name)}</b> '
        f"{escape(text)}</div>"
        for name, text in TERMS.items()
    )


def _id(name: str) -> str:
    return f"term-{name.lower()}"
