"""What is made of the records of a sweep: seeds together, comparable runs, fronts and laws."""

from __future__ import annotations

import random

import pytest

from qvla.bench.sweep_results import front, law_over_rank, over_rank, results_of
from tests.support.sweeps import sweep_run


def test_seeds_of_one_recipe_are_one_choice() -> None:
    kept = [
        sweep_run("lora, rank 4", 0.5, seed=0, seconds=10, rank=4),
        sweep_run("lora, rank 4", 0.7, seed=1, seconds=14, rank=4),
        sweep_run("lora, rank 8", 0.9, seed=0, rank=8),
        sweep_run("vera", 0, failed="It has no place."),
    ]
    (results,) = results_of(kept)
    four, eight = results.choices
    assert (four.name, four.kind, eight.name) == ("lora, rank 4", "lora", "lora, rank 8")
    assert four.score == pytest.approx(0.6)
    assert (four.low, four.high) == pytest.approx((0.45, 0.77))
    assert four.mean("train_processor_seconds") == pytest.approx(12)
    assert eight.score == pytest.approx(0.9)
    assert [one.record.variants[0] for one in results.failed] == ["vera, seed 0"]


def test_only_runs_of_one_model_are_compared_and_the_newest_of_a_run_counts() -> None:
    kept = [
        sweep_run("lora, rank 4", 0.5, hour=2, rank=4),
        sweep_run("lora, rank 4", 0.1, hour=1, rank=4),
        sweep_run("adapter", 0.2),
        sweep_run("lora, rank 4", 0.9, model="another", rank=4),
    ]
    most, other = results_of(kept)
    assert [one.score for one in most.choices] == pytest.approx([0.5, 0.2])
    assert [one.score for one in other.choices] == pytest.approx([0.9])


def test_a_run_that_is_done_after_it_failed_is_no_failure() -> None:
    again = [
        sweep_run("lora, rank 4", 0, hour=1, failed="Memory ran out."),
        sweep_run("lora, rank 4", 0.5, hour=2),
    ]
    (results,) = results_of(again)
    assert len(results.choices) == 1
    assert results.failed == ()


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_that_of_comparing_all_with_all(seed: int) -> None:
    numbers = random.Random(seed)
    points = [(numbers.randint(1, 9), numbers.randint(1, 9)) for _ in range(25)]
    unbeaten = {
        place
        for place, (cost, score) in enumerate(points)
        if not any(
            other_cost <= cost
            and other_score >= score
            and (other_cost, other_score) != (cost, score)
            for other_cost, other_score in points
        )
    }
    found = front(points)
    assert set(found) == unbeaten
    assert [points[place] for place in found] == sorted(points[place] for place in unbeaten)


def test_the_law_over_ranks_is_that_of_the_scores() -> None:
    kept = [
        sweep_run(f"lora, rank {rank}", 0.2 * rank**0.5, rank=rank, seed=seed)
        for rank in (4, 8, 16)
        for seed in (0, 1)
    ]
    kept += [sweep_run(f"dora, rank {rank}", 0.1, rank=rank) for rank in (4, 8)]
    kept += [sweep_run("adapter", 0.3, rank=16)]
    (results,) = results_of(kept)
    families = over_rank(results.choices)
    assert list(families) == ["lora"]
    law = law_over_rank(families["lora"])
    assert (law.coefficient, law.exponent) == pytest.approx((0.2, 0.5))
    assert law.points == 6


def test_what_is_gained_over_the_base_has_a_law_of_its_own() -> None:
    kept = [sweep_run("base", 0.3)]
    kept += [
        sweep_run(f"lora, rank {rank}, lora alpha {2 * rank}", 0.3 + 0.1 * rank**0.25, rank=rank)
        for rank in (4, 8, 16)
    ]
    (results,) = results_of(kept)
    assert results.base is kept[0]
    assert len(results.choices) == 3
    law = law_over_rank(over_rank(results.choices)["lora"], base=0.3)
    assert (law.coefficient, law.exponent) == pytest.approx((0.1, 0.25))
