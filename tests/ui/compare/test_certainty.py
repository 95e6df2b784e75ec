from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qvla.captioning.certainty import UNFAMILIAR
from qvla.records import store as records
from qvla.settings import Settings
from qvla.ui.compare.certainty import Certainties
from qvla.ui.compare.history import pane_record
from qvla.ui.origins import visit_records
from qvla.ui.panes import Pane, PaneState, announcement, render_panes

PANE = Pane(
    "adapter",
    state=PaneState.DONE,
    text="many planes",
    tokens=3,
    model="made-up",
    adapter="lora",
    precision="fp32",
    log_probability=-0.5,
)


def evaluated(
    folder: Path, sure: float, guessing: float, adapter: str = "lora", score: float = 1.0
) -> None:
    """An evaluation with these thresholds; guesses scored 0.5, and what is sure `score`."""
    held = {"title": "Own", "base": "made-up", "precision": "bf16", "adapter": adapter}
    record = records.new_record(
        "evaluation",
        model="made-up",
        variants=["own"],
        data=records.Data(name="fields", items=300, fingerprint="sha256:00"),
        numbers={
            "certainty/own/sure/from": sure,
            "certainty/own/sure/CIDEr": score,
            "certainty/own/guessing/below": guessing,
            "certainty/own/guessing/CIDEr": 0.5,
        },
        protocol={"contenders": {"own": held}},
    )
    records.write(record, folder)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(records=tmp_path / "records", jobs=tmp_path / "jobs")


def test_the_word_is_that_of_the_panes_own_weights(settings: Settings) -> None:
    certain = Certainties(settings)
    assert certain(PANE) == ""  # nobody has evaluated it
    evaluated(visit_records(settings), sure=-9, guessing=-9)
    evaluated(settings.records, sure=-9, guessing=-9, adapter="another")
    assert certain(PANE) == ""  # a visitor's own, and another adapter's
    evaluated(settings.records, sure=-0.4, guessing=-0.6)
    assert certain(PANE) == "unsure"
    assert certain(replace(PANE, log_probability=-0.4)) == "sure"
    assert certain(replace(PANE, log_probability=-0.7)) == "guessing"
    assert certain(replace(PANE, precision="nf4")) == ""
    assert certain(replace(PANE, log_probability=None)) == ""  # beams
    assert certain(replace(PANE, state=PaneState.STOPPED)) == ""


def test_there_is_no_word_where_the_sure_captions_were_hardly_better(settings: Settings) -> None:
    evaluated(settings.records, sure=-0.4, guessing=-0.6, score=0.9)
    assert Certainties(settings)(PANE) == ""


def test_a_pane_shows_and_says_it() -> None:
    pane = replace(PANE, certainty="guessing")
    assert 'data-word="guessing"' in render_panes([pane])
    assert announcement([pane]) == "Adapter (guessing): Many planes."
    again = replace(PANE, text="many trees and many trees , many trees")
    assert "“many trees” at least 3 times" in render_panes([again])
    assert "<b>" not in render_panes([replace(PANE, certainty="<b>", model="")]).split("note")[1]


def test_a_photo_unlike_the_training_photos_is_told_of_once_above_the_panes() -> None:
    known, strange = replace(PANE, unfamiliar=False), replace(PANE, unfamiliar=True)
    page = render_panes([strange, replace(strange, name="qvla"), replace(PANE, name="beam")])
    assert page.count(UNFAMILIAR) == 2  # the other is what a screen reader says
    assert page.index(f'<p class="unfamiliar">{UNFAMILIAR}</p>') < page.index('class="panes"')
    assert announcement([strange]).startswith(UNFAMILIAR)
    for quiet in (known, PANE):
        assert UNFAMILIAR not in render_panes([quiet])
        assert '<p class="unfamiliar" hidden></p>' in render_panes([quiet])
    # The first pane that knows decides, so that the page does not contradict itself.
    assert UNFAMILIAR not in render_panes([PANE, known, replace(strange, name="qvla")])
    assert [pane_record(one)["unfamiliar"] for one in (known, strange, PANE)] == [False, True, None]
