"""The fit of a power law, on points of which the law is known."""

from __future__ import annotations

import numpy as np
import pytest

from qvla.bench.power_law import FitError, fit

RANKS = [4, 8, 16, 32, 64]


def test_a_law_without_noise_is_found() -> None:
    law = fit(RANKS, [0.2 * rank**0.5 for rank in RANKS])
    assert law.coefficient == pytest.approx(0.2)
    assert law.exponent == pytest.approx(0.5)
    assert law.error == pytest.approx(0, abs=1e-9)
    assert law.explained == pytest.approx(1)
    assert law.at(100) == pytest.approx(2)


def test_the_error_is_that_of_the_covariance_of_a_line() -> None:
    noise = np.random.default_rng(0)
    x = np.repeat(RANKS, 3).astype(float)
    y = 0.7 * x**0.1 * np.exp(noise.normal(0, 0.05, len(x)))
    law = fit(list(x), list(y))
    (slope, start), covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    assert law.exponent == pytest.approx(slope)
    assert law.coefficient == pytest.approx(np.exp(start))
    assert law.error == pytest.approx(np.sqrt(covariance[0, 0]))
    assert law.explained == pytest.approx(np.corrcoef(np.log(x), np.log(y))[0, 1] ** 2)


@pytest.mark.parametrize(
    ("points", "quantile"),  # of Student's t with two degrees of freedom fewer, from printed tables
    [(3, 12.706), (4, 4.303), (5, 3.182), (7, 2.571), (12, 2.228), (15, 2.160), (32, 2.042)],
)
def test_the_interval_is_students(points: int, quantile: float) -> None:
    noise = np.random.default_rng(points)
    x = np.arange(1, points + 1)
    law = fit(list(x), list(x**0.3 * np.exp(noise.normal(0, 0.1, points))))
    assert (law.high - law.exponent) / law.error == pytest.approx(quantile, abs=6e-4)
    assert (law.exponent - law.low) / law.error == pytest.approx(quantile, abs=6e-4)


def test_the_interval_holds_the_true_exponent_about_as_often_as_it_says() -> None:
    noise = np.random.default_rng(1)
    x = np.repeat(RANKS, 3).astype(float)
    laws = [
        fit(list(x), list(0.4 * x**0.25 * np.exp(noise.normal(0, 0.1, 15)))) for _ in range(400)
    ]
    assert 0.92 <= np.mean([law.holds(0.25) for law in laws]) <= 0.98
    assert not any(law.holds(0.5) for law in laws)


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ([1, 2], [1, 2], "three points"),
        ([2, 2, 2], [1, 2, 3], "two different x"),
        ([1, 2, 3], [1, 0, 3], "above zero"),
        ([1, 2, 3], [1, float("nan"), 3], "above zero"),
        ([1, 2, 3], [1, 2], "one y for every x"),
    ],
)
def test_what_has_no_law_meets_a_sentence(x: list[float], y: list[float], why: str) -> None:
    with pytest.raises(FitError, match=why):
        fit(x, y)
