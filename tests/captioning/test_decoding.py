from __future__ import annotations

import math

import pytest
import torch

from qvla.captioning.decoding import Decoding
from qvla.errors import QvlaError

PROBABILITIES = torch.tensor([0.5, 0.3, 0.15, 0.05])


def draw(decoding: Decoding, times: int, rows: int = 1) -> torch.Tensor:
    """Token picks (times, rows) of a decoding for a model that always gives PROBABILITIES."""
    processors = decoding.processors()
    prompt = torch.zeros(rows, 1, dtype=torch.long)
    scores = PROBABILITIES.log().expand(rows, -1)
    picks = [processors(prompt, scores.clone()).argmax(-1) for _ in range(times)]
    return torch.stack(picks)


def shares(picks: torch.Tensor) -> torch.Tensor:
    return torch.bincount(picks.flatten(), minlength=4) / picks.numel()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    picks = draw(Decoding(temperature=temperature, seed=0), 2_000)
    expected = torch.softmax(PROBABILITIES.log() / temperature, -1)
    assert torch.allclose(shares(picks), expected, atol=0.045)  # four standard errors


def test_without_a_seed_samples_follow_the_softmax_and_rows_differ() -> None:
    picks = draw(Decoding(temperature=1.0), 1_600, rows=12)
    assert torch.allclose(shares(picks), PROBABILITIES, atol=0.015)
    assert not torch.equal(picks[:, 0], picks[:, 1])
    assert not torch.equal(picks, draw(Decoding(temperature=1.0), 1_600, rows=12))


def test_top_p_leaves_the_unlikely_tokens_out() -> None:
    picks = draw(Decoding(temperature=1.0, top_p=0.75, seed=0), 2_000)
    expected = torch.tensor([0.5, 0.3, 0, 0]) / 0.8
    assert torch.allclose(shares(picks), expected, atol=0.045)
    assert shares(picks)[2:].sum() == 0


def test_a_seed_repeats_and_does_not_depend_on_the_rows_beside() -> None:
    alone = draw(Decoding(temperature=1.0, seed=7), 200)
    again = draw(Decoding(temperature=1.0, seed=7), 200, rows=3)
    assert torch.equal(alone.expand(-1, 3), again)
    assert not torch.equal(alone, draw(Decoding(temperature=1.0, seed=8), 200))


def test_sampling_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw(Decoding(temperature=1.0, seed=1), 5)
    draw(Decoding(temperature=1.0), 5)
    assert torch.equal(torch.rand(3), expected)


def test_greedy_changes_no_score() -> None:
    assert (draw(Decoding(), 50) == 0).all()
    assert len(Decoding(top_p=0.5, seed=3).processors()) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "maximum length"),
        ({"max_new_tokens": 257}, "maximum length"),
        ({"max_new_tokens": 4.5}, "maximum length"),
        ({"max_new_tokens": True}, "maximum length"),
        ({"num_beams": 0}, "beams"),
        ({"num_beams": 9}, "beams"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0}, "[Tt]op-p"),
        ({"top_p": 1.01}, "[Tt]op-p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"num_beams": 2, "temperature": 0.5}, "temperature to 0"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(options: dict[str, object], words: str) -> None:
    with pytest.raises(QvlaError, match=words) as error:
        Decoding(**options)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 256, "num_beams": 8, "top_p": 1.0},
        {"max_new_tokens": 1, "temperature": 2.0, "top_p": 0.01, "seed": 0},
        {"temperature": 1, "seed": 2**63 - 1},
    ],
)
def test_the_limits_themselves_are_allowed(options: dict[str, object]) -> None:
    Decoding(**options).processors()
