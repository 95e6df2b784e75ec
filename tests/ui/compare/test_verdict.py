"""What is said of panes above them: hand-made figures, and sentences written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qvla.ui.compare.verdict import base_of, shared_pass, times_base, verdict
from qvla.ui.panes import ANSWERS, Pane, PaneState, announcement, render_panes

RIVER, TREES = "a river .", "green trees ."


def pane(
    name: str,
    text: str = RIVER,
    *,
    weight: int = 0,
    first: float | None = None,
    seconds: float | None = None,
    score: float | None = None,
    adapter: str | None = None,
    precision: str = "fp32",
    called: str = "",
) -> Pane:
    return Pane(
        name,
        PaneState.DONE,
        model="mini",
        adapter=adapter,
        precision=precision,
        weight_bytes=weight,
        text=text,
        seconds_to_first_token=first,
        seconds=seconds,
        cider_d=score,
        called=called,
    )


def three(
    base: str, adapter: str, qvla: str, scores: tuple[float | None, ...] = (None, None, None)
) -> list[Pane]:
    """The default three, with figures like those of the report."""
    return [
        pane("base", base, weight=40_000_000, first=0.3, seconds=1.0, score=scores[0]),
        pane(
            *("adapter", adapter),
            weight=50_000_000,
            first=0.3,
            seconds=1.0,
            score=scores[1],
            adapter="a",
        ),
        pane(
            *("qvla", qvla),
            weight=10_000_000,
            first=0.5,
            seconds=1.2,
            score=scores[2],
            adapter="q",
            precision="nf4",
        ),
    ]


OTHER = "many houses ."


@pytest.mark.parametrize(
    ("panes", "sentences"),
    [
        pytest.param(
            three(TREES, RIVER, RIVER, (0.2, 2.1, 2.1)),
            [
                "QVLA said the same as Adapter, in 5.0 times less memory, 20 % slower.",
                "Base knows less of this photo: CIDEr-D 0.20 against 2.10 of Adapter and 2.10 of "
                "QVLA.",
            ],
            id="same as adapter",
        ),
        pytest.param(
            three(RIVER, RIVER, "A river."),
            ["All 3 said the same.", "QVLA needs 5.0 times less memory than Adapter and took 20 % "
             "longer."],
            id="all the same, but for stops and capitals",
        ),
        pytest.param(
            three(TREES, OTHER, RIVER, (1.0, 1.05, 0.99)),
            [
                "QVLA needs 5.0 times less memory than Adapter and took 20 % longer.",
                "All score about the same: CIDEr-D 0.99 to 1.05.",
            ],
            id="small differences",
        ),
        pytest.param(
            three(TREES, OTHER, RIVER, (2.0, 0.3, 1.9)),
            [
                "QVLA needs 5.0 times less memory than Adapter and took 20 % longer.",
                "QVLA and Base score highest: CIDEr-D 1.90 and 2.00 against 0.30 of Adapter.",
            ],
            id="base leads",
        ),
        pytest.param(
            [pane("base", TREES, score=1.0), pane("qvla", score=1.01)],
            ["Base and QVLA score about the same: CIDEr-D 1.00 to 1.01."],
            id="two with a small difference",
        ),
        pytest.param(
            [pane("base", TREES), pane("qvla")],
            [],
            id="captions on record, without figures or references",
        ),
        pytest.param(
            [pane("base"), pane("qvla")], ["QVLA said the same as Base."], id="words alone"
        ),
        pytest.param(
            [pane("base", seconds=1.0), pane("qvla", seconds=1.05)],
            ["QVLA said the same as Base, in about the same time."],
            id="5 % is nothing",
        ),
        pytest.param(
            [pane("base", seconds=1.0), pane("qvla", seconds=2.66)],
            ["QVLA said the same as Base, taking 2.7 times as long."],
            id="much slower",
        ),
        pytest.param(
            [pane("base", seconds=1.0), pane("qvla", seconds=0.5)],
            ["QVLA said the same as Base, in 50 % less time."],
            id="faster",
        ),
        pytest.param(
            [
                pane("lora-8", weight=100, seconds=3.0, adapter="l8", called="LoRA 8"),
                pane("lora-16", TREES, weight=105, seconds=1.0, adapter="l16", called="LoRA 16"),
            ],
            ["LoRA 16 took 67 % less time than LoRA 8."],
            id="any contenders, without a base",
        ),
        pytest.param(
            [
                pane("lora", TREES, weight=100, seconds=1.0, score=1.5, called="LoRA"),
                pane("ia3", weight=40, seconds=2.5, score=0.5, called="IA3"),
            ],
            [
                "IA3 needs 2.5 times less memory than LoRA and took 2.5 times as long.",
                "LoRA scores higher: CIDEr-D 1.50 against 0.50 of IA3.",
            ],
            id="two, one much slower",
        ),
        pytest.param(
            [*three(TREES, RIVER, OTHER)[:2], replace(pane("qvla"), state=PaneState.FAILED)],
            [],
            id="a failed pane is left out, and a base is no saver",
        ),
    ],
)  # fmt: skip
def test_the_sentences_follow_from_the_figures(panes: list[Pane], sentences: list[str]) -> None:
    assert verdict(panes) == sentences


def test_who_shares_a_pass_is_told_where_times_are_equal() -> None:
    panes = three(TREES, RIVER, RIVER)
    said = "Base and Adapter share one pass through one backbone."
    assert shared_pass(panes) == [said]
    assert said in render_panes(panes)
    for other in (
        replace(panes[1], precision="nf4"),
        replace(panes[1], model="another"),
        replace(panes[1], seconds_to_first_token=0.30001),
        replace(panes[1], state=PaneState.FAILED),
    ):
        assert shared_pass([panes[0], other, panes[2]]) == []


def test_there_is_none_before_all_have_ended_or_of_one_alone() -> None:
    done = three(RIVER, RIVER, RIVER)
    assert verdict([*done[:2], replace(done[2], state=PaneState.STREAMING)]) == []
    for state in set(PaneState) - {PaneState.DONE, PaneState.WAITING, PaneState.STREAMING}:
        assert verdict([done[0], replace(done[2], state=state)]) == []


def test_answers_are_told_of_by_their_own_score() -> None:
    right = replace(pane("adapter", "yes", adapter="a"), exact_match=1.0)
    wrong = replace(pane("base", "no"), exact_match=0.0)
    said = "Base knows less of this photo: Exact match 0.00 against 1.00 of Adapter."
    assert verdict([wrong, right], ANSWERS.scores[0]) == [said]
    assert announcement([wrong, right], ANSWERS) == f"Base: No. Adapter: Yes. {said}"
    assert f'<p class="verdict">{said}</p>' in render_panes([wrong, right], ANSWERS)


def test_each_pane_has_its_ratio_to_base() -> None:
    panes = three(TREES, RIVER, RIVER)
    assert base_of(panes) is panes[0]
    bare = pane("plain", weight=5, called="Plain")
    assert base_of([panes[1], replace(panes[2], adapter=None, weight_bytes=0), bare]) is bare
    assert base_of(panes[1:]) is None
    assert times_base(1.2, panes[0], "seconds") == "1.2 × Base"
    assert times_base(10_000_000, panes[0], "weight_bytes") == "0.25 × Base"
    assert times_base(None, panes[0], "seconds") == times_base(1.0, None, "seconds") == ""
    shown = render_panes(panes)
    assert shown.count("× Base") == 4  # time and memory of the other two
    assert "×" not in render_panes(panes[1:])


def test_words_that_one_pane_alone_has_are_marked_apart_from_shared_ones() -> None:
    base, other = pane("base", "a river near trees ."), pane("qvla", "a wide river .")
    words = (
        ("a", False),
        (" ", False),
        ("wide", True),
        (" ", False),
        ("river", True),
        (" .", False),
    )
    shown = render_panes([base, replace(other, words=words)])
    assert '<mark class="own">wide</mark>' in shown and "<mark>river</mark>" in shown
    assert '<span class="own">trees</span>' in shown
    assert '<span class="own">near</span>' in shown and '"own">a<' not in shown.lower()
    for key in ("Filled", "Underlined"):
        assert f">{key}<" in shown
    streaming = render_panes([base, replace(other, state=PaneState.STREAMING)])
    assert streaming.count('class="own"') == 1  # in the key, which is hidden
    assert streaming.count(" hidden>") == 3  # the note on unlike photos too
