"""What the page shows of a sweep: every number from the records, and what is claimed beside it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from qvla.ui.explore.sweep_figures import NO_RUNS, sweep_panel
from tests.support.sweeps import sweep_run

RANKS = (4, 8, 16, 32)


def ranks(exponent: float) -> list:
    wobble = {0: 1.0, 1: 1.04, 2: 0.97}
    return [
        sweep_run(
            f"lora, rank {rank}",
            0.5 * rank**exponent * wobble[seed],
            rank=rank,
            seed=seed,
            parameters=100 * rank,
            seconds=5.0 + seed,
            peak=10**8 + rank,
        )
        for rank in RANKS
        for seed in wobble
    ]


def test_without_runs_the_page_says_how_to_measure() -> None:
    panel = sweep_panel([])
    assert panel.lead == NO_RUNS
    assert panel.parameters.figure is None
    only_failed = sweep_panel([sweep_run("vera", 0, failed="It has no place.")])
    assert only_failed.lead == NO_RUNS


def test_figures_and_csv_hold_what_the_records_hold() -> None:
    kept = [*ranks(0.1), sweep_run("bitfit", 0.3, parameters=50, seconds=2.0, peak=10**7)]
    panel = sweep_panel(kept)
    assert "13 runs of 5 recipes on mini, 20 steps each, scored on 40 photos" in panel.lead
    assert f", {kept[0].record.date:%Y-%m-%d}. " in panel.lead

    traces = {trace.name: trace for trace in panel.parameters.figure.data}
    assert list(traces["lora"].x) == [400, 800, 1600, 3200]
    expected = [0.5 * rank**0.1 * (1 + 1.04 + 0.97) / 3 for rank in RANKS]
    assert list(traces["lora"].y) == pytest.approx(expected)
    highest = [0.5 * rank**0.1 * 1.04 + 0.07 for rank in RANKS]
    assert [
        y + up for y, up in zip(traces["lora"].y, traces["lora"].error_y.array, strict=True)
    ] == pytest.approx(highest)
    assert list(traces["Pareto front"].x) == [50, 400, 800, 1600, 3200]
    assert list(panel.seconds.figure.data[0].x) == [6.0] * 4
    assert max(panel.memory.figure.data[-1].x) == 10**8 + 32

    with Path(panel.parameters.csv).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["recipe"] for row in rows] == [
        *(f"lora, rank {rank}" for rank in reversed(RANKS)),
        "bitfit",
    ]
    assert float(rows[-1]["CIDEr"]) == 0.3
    assert float(rows[-1]["train_seconds"]) == 4.0
    assert rows[0]["seeds"] == "3"
    assert 'href="#record-bitfit-seed-0"' in panel.parameters.html


@pytest.mark.parametrize(
    ("exponent", "verdict"),
    [
        (0.5, "0.5 lies within that"),
        (0.2, "0.5 does not hold here;"),
        (0.0, "0.5 does not hold here, and neither does more rank help measurably"),
    ],
)
def test_the_claim_of_the_page_is_judged_by_the_fit(exponent: float, verdict: str) -> None:
    panel = sweep_panel(ranks(exponent))
    assert f"r^{exponent:.3f}" in panel.rank.html.replace("r^-0.000", "r^0.000")
    assert verdict in panel.rank.html
    claimed = panel.rank.figure.data[-1]
    assert list(claimed.y) == pytest.approx([0.4, 0.2 * 8**0.5, 0.8, 0.2 * 32**0.5])


def test_what_failed_is_told_and_nothing_becomes_markup() -> None:
    hostile = '<img src=x onerror="alert(1)">'
    panel = sweep_panel([sweep_run("lora", 0.5), sweep_run(hostile, 0, failed="No.")])
    assert "<img" not in panel.parameters.html
    assert "failed: No." in panel.parameters.html
