"""Intervals and paired differences: against loops that score again, and on known populations."""

from __future__ import annotations

import random
from time import process_time

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu

from qvla.scoring import METRICS, Scored, compare, score
from qvla.scoring.bootstrap import draws, p_value, resampled
from tests.support.made_captions import Made, make

BLEU = [f"BLEU-{order}" for order in range(1, 5)]


def scored(made: Made, captions: dict[str, str] | None = None, **options: object) -> Scored:
    given = {"metrics": METRICS, "tokenizer": "python"}
    return score(made.references, captions or made.captions, **(given | options))


def test_bleu_of_a_resample_is_pycocoevalcaps_of_the_resampled_captions() -> None:
    made = make(40)
    images = sorted(made.references)
    found = resampled(scored(made)._parts, 25, 4)
    for turn, times in enumerate(next(draws(40, 25, 4))):
        assert times.sum() == 40
        names = [name for name, n in zip(images, times, strict=True) for _ in range(int(n))]
        totals, _ = Bleu(4).compute_score(
            {number: made.reference_tokens[name] for number, name in enumerate(names)},
            {number: made.caption_tokens[name] for number, name in enumerate(names)},
            verbose=0,
        )
        assert [found[name][turn] for name in BLEU] == pytest.approx(totals, abs=1e-12)


def test_bleu_of_captions_without_a_match_is_pycocoevalcaps() -> None:
    made = make(5)
    images = sorted(made.references)
    short = dict.fromkeys(images, "pier")  # no match, no bigram, and brief
    found = resampled(scored(made, short)._parts, 3, 0)
    for turn, times in enumerate(next(draws(5, 3, 0))):
        names = [name for name, n in zip(images, times, strict=True) for _ in range(int(n))]
        totals, _ = Bleu(4).compute_score(
            {number: made.reference_tokens[name] for number, name in enumerate(names)},
            {number: ["pier"] for number in range(5)},
            verbose=0,
        )
        assert [found[name][turn] for name in BLEU] == pytest.approx(totals, rel=1e-9)


@pytest.mark.parametrize("metric", ["CIDEr", "ROUGE-L"])
def test_means_of_resamples_are_means_of_their_photos(metric: str) -> None:
    """For CIDEr: with the weights of words that the whole set gave."""
    result = scored(make(40))
    photos = np.array([value for _, value in sorted(result.per_image[metric].items())])
    found = resampled(result._parts, 25, 4)[metric]
    expected = [np.repeat(photos, times.astype(int)).mean() for times in next(draws(40, 25, 4))]
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_ends_are_those_of_the_middle_95_percent() -> None:
    result = scored(make(40), resamples=400, seed=6)
    for name, values in resampled(result._parts, 400, 6).items():
        ends = result.metrics[name]
        assert ends.low < ends.value < ends.high
        assert np.sum(values < ends.low) == np.sum(values > ends.high) == 10


def test_draws_are_even_and_come_in_blocks() -> None:
    blocks = list(draws(30_000, 150, 0))
    assert len(blocks) > 1
    times = np.concatenate(blocks)
    assert times.shape == (150, 30_000)
    assert (times.sum(axis=1) == 30_000).all()
    # Each photo is drawn a Poisson(1) number of times, nearly.
    assert times.mean() == 1
    assert np.var(times) == pytest.approx(1, abs=0.01)
    assert not np.array_equal(times[0], times[-1])
    assert np.corrcoef(times[:, 0], times[:, 1])[0, 1] == pytest.approx(0, abs=0.3)


def test_intervals_cover_the_score_of_all_photos_19_times_of_20() -> None:
    everything = make(2000)
    whole = scored(everything, metrics=["ROUGE-L"], resamples=1).metrics["ROUGE-L"].value
    chance = random.Random(0)
    covered = 0
    for turn in range(200):
        names = chance.sample(sorted(everything.references), 60)
        ends = score(
            {name: everything.references[name] for name in names},
            {name: everything.captions[name] for name in names},
            metrics=["ROUGE-L"],
            resamples=300,
            seed=turn,
            tokenizer="python",
        ).metrics["ROUGE-L"]
        covered += ends.low <= whole <= ends.high
    assert 180 <= covered <= 198  # 190 expected; 3 is the spread


def test_where_all_photos_score_the_same_the_interval_is_the_score() -> None:
    references = {str(n): ["a long white quay", "boats"] for n in range(7)}
    result = score(
        references, dict.fromkeys(references, "a white quay"), tokenizer="python", metrics=METRICS
    )
    for ends in result.metrics.values():
        assert ends.low == ends.value == ends.high


def test_a_real_difference_is_found_though_the_intervals_overlap() -> None:
    made = make(300)
    better = dict(made.captions)
    for image in list(better)[::20]:
        better[image] = made.references[image][0]
    first, second = scored(made), scored(made, better)
    found = compare(first, second)
    assert list(found) == list(METRICS)
    for name, difference in found.items():
        gap = second.metrics[name].value - first.metrics[name].value
        assert difference.value == pytest.approx(gap)
        assert 0 < difference.low < difference.value < difference.high
        assert difference.p_value < 0.01
    assert second.metrics["ROUGE-L"].low < first.metrics["ROUGE-L"].high
    turned = compare(second, first)["CIDEr"]
    assert turned.value == -found["CIDEr"].value
    assert turned.high == pytest.approx(-found["CIDEr"].low)
    assert turned.p_value == found["CIDEr"].p_value


def test_equal_systems_seldom_differ() -> None:
    """Each caption is from one of two systems at random, so neither mixture is the better one."""
    one = make(80, seed=2)
    chance = random.Random(0)
    pool = {
        image: [chance.sample(one.references[image], 2) for _ in range(40)]
        for image in one.references
    }
    told = 0
    for turn in range(40):
        first, second = (
            scored(
                one,
                {image: pairs[turn][side] for image, pairs in pool.items()},
                metrics=["BLEU-2", "ROUGE-L"],
                resamples=1,
            )
            for side in (0, 1)
        )
        told += compare(first, second, resamples=400)["BLEU-2"].p_value < 0.05
    assert told <= 6  # 2 expected of 40; 1.4 is the spread


def test_a_system_does_not_differ_from_itself() -> None:
    same = scored(make(30))
    for difference in compare(same, same).values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
        assert difference.p_value == 1


def test_a_share_of_none_is_no_proof() -> None:
    assert p_value(np.ones(999)) == pytest.approx(2 / 1000)
    assert p_value(-np.ones(999)) == pytest.approx(2 / 1000)
    assert p_value(np.array([-1.0] * 49 + [1.0] * 950)) == pytest.approx(0.1)


@pytest.mark.slow
def test_a_thousand_resamples_take_little() -> None:
    result = scored(make(4454), resamples=1)
    begin = process_time()
    resampled(result._parts, 1000, 0)
    assert process_time() - begin < 1
