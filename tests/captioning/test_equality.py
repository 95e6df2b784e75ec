"""The embedded model's three contenders against `generate` of Transformers, photo by photo.

The photos are crops, turns and flips of the examples, so that no other data is needed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
from PIL import Image

from qvla.captioning.contenders import VARIANTS
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import Caption, caption, stream
from qvla.captioning.lineup import Lineup
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.models.nf4 import packs
from qvla.settings import ASSETS, EMBEDDED_MODEL
from tests.support.alone import Alone, Said

FOLDERS = {"adapter": EMBEDDED_MODEL / "adapter", "qvla": EMBEDDED_MODEL / "qvla"}
LONGEST = 30
TIE = 1e-5  # of logits in float32
# A packed layer and bfloat16 round each product: by a few hundredths of these logits.
ROUNDED = 0.15


def pictures(count: int) -> list[Image.Image]:
    """Parts of the examples, each of at least half a side, turned and mirrored."""
    draw = random.Random(0)
    whole = [open_image(one.image) for one in read_examples(ASSETS / "examples")]
    made = []
    for index in range(count):
        photo = whole[index % len(whole)]
        width, height = (round(side * draw.uniform(0.5, 1)) for side in photo.size)
        left, top = draw.randint(0, photo.width - width), draw.randint(0, photo.height - height)
        photo = photo.crop((left, top, left + width, top + height))
        photo = photo.rotate(90 * draw.randrange(4), expand=True)
        made.append(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if index % 2 else photo)
    return made


@cache
def alone(name: str) -> Alone:
    return Alone(EMBEDDED_MODEL, FOLDERS.get(name), nf4=name == "qvla")


def loaded(precision: str, *variants: str) -> Lineup:
    folders = {"adapter": FOLDERS["adapter"], "nf4_adapter": FOLDERS["qvla"]}
    options = {"precision": precision, "device": "cpu", "variants": variants}
    return Lineup.load(EMBEDDED_MODEL, **folders, **options)


def in_a_crowd(lineup: Lineup, photos: Sequence[Image.Image]) -> list[dict[str, Caption]]:
    """Captions of requests that come in any order and size, while some leave and adapters swap."""
    draw, decoding = random.Random(1), Decoding(max_new_tokens=LONGEST)
    order = list(range(len(photos)))
    draw.shuffle(order)

    def leave(photo: Image.Image) -> None:
        answers = stream(lineup, photo, decoding=decoding)
        next(answers)
        answers.close()

    asked = []
    with ThreadPoolExecutor(max_workers=5) as pool:
        while order:
            own, order = order[: (size := draw.randint(1, 4))], order[size:]
            images = [photos[index] for index in own]
            asked.append((own, pool.submit(caption, lineup, images, VARIANTS, decoding)))
            if len(asked) % 3 == 1:
                pool.submit(leave, images[0])
            if len(asked) % 8 == 2:
                for name, folder in FOLDERS.items():
                    pool.submit(lineup.swap_adapter, name, folder)
    answers = {
        index: one for own, job in asked for index, one in zip(own, job.result(), strict=True)
    }
    return [answers[index] for index in range(len(photos))]


def check(answer: Caption, due: Said, tie: float) -> bool:
    """Whether an answer is that which is due; if it is not, then there was a tie."""
    assert (answer.text, answer.tokens) == (due.text, due.tokens) or due.margin < tie, due
    if answer.text != due.text:
        return False
    assert answer.log_probability == pytest.approx(due.log_probability, abs=max(tie, 1e-4))
    return True


@pytest.mark.parametrize("count", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_every_token_is_that_of_generate(count: int) -> None:
    photos = pictures(count)
    found = in_a_crowd(loaded("fp32", *VARIANTS), photos)
    for name in VARIANTS:
        tie = ROUNDED if name == "qvla" and packs() else TIE
        due = [alone(name).said(photo, max_new_tokens=LONGEST) for photo in photos]
        same = sum(
            check(answers[name], said, tie) for answers, said in zip(found, due, strict=True)
        )
        print(f"{name}: {same} of {count} the same, {count - same} ties")
        assert same > 0.9 * count
        assert len({said.text for said in due}) > 1


def test_bfloat16_says_the_same_but_for_near_ties() -> None:
    photos = pictures(2)
    lineup = loaded("bf16", "base", "adapter")
    found = caption(lineup, photos, ["base", "adapter"], Decoding(max_new_tokens=LONGEST))
    for name in ("base", "adapter"):
        due = [alone(name).said(photo, max_new_tokens=LONGEST) for photo in photos]
        for answers, said in zip(found, due, strict=True):
            check(answers[name], said, ROUNDED)
