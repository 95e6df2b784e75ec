"""VQAv2's accuracy: how many of ten people gave the same answer.

Antol et al. 2015 (arXiv 1505.00468, section 3 and appendix), in the form of the evaluation that
comes with VQAv2 (Goyal et al. 2017): each of the ten answers is left out in turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PEOPLE = 10  # whose answers VQAv2 has of each question
AGREEING = 3  # with so many of the others an answer is wholly right

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")  # the evaluation's own pattern, less a look behind of no effect
# Words that people write without their apostrophe.
CONTRACTIONS = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
    hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
    mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't
    she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's
    there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't
    we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd
    who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
    y'all'll y'all'd've you'd you'd've you'll you're you've""".split()
# Each is found with any one of its apostrophes missing.
APOSTROPHES = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTIONS
    for place, letter in enumerate(word)
    if letter == "'"
}


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """VQAv2's soft accuracy: min(n / 3, 1), n being the people who said so, as a mean over the
    subsets that leave out one of the ten.

    With fewer than ten answers there is no such share of people: 1 where one of them is the same,
    else 0. All are normalised first; the evaluation of VQAv2 leaves that where all ten agree to the
    letter, so that Yes would not be their yes.
    """
    said, due = vqav2_words(answer), [vqav2_words(truth) for truth in truths]
    same = [truth == said for truth in due]
    if len(due) < PEOPLE:
        return float(any(same))
    others = [sum(same) - own for own in same]
    return sum(min(1.0, count / AGREEING) for count in others) / len(due)


def vqav2_words(answer: str) -> str:
    """An answer as VQAv2's evaluation normalises it: no punctuation and articles, numbers to ten as
    digits, contractions with their apostrophes.

    A mark goes without a trace where it stands beside a space anywhere in the answer, or where a
    number has a comma; else a space takes its place.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    joined = COMMA_IN_NUMBER.search(text) is not None
    bare = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside_space or joined else " ")
    words = [NUMBERS.get(word, word) for word in PERIOD.sub("", bare).lower().split()]
    return " ".join(APOSTROPHES.get(word, word) for word in words if word not in ARTICLES)
