"""How a caption is picked from the model's next-token scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from qvla.errors import QvlaError

LONGEST = 256  # tokens
MOST_BEAMS = 8
HOTTEST = 2.0
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Decoding:
    """Greedy unless told otherwise; raises QvlaError for values that make no sense.

    A `temperature` above 0 samples, from the likeliest tokens that together hold `top_p` of the
    probability. With a `seed` a sampled caption depends on photo, weights and options alone, not on
    what else is in the batch; without one it differs from call to call. Beams search without
    sampling, so they go with temperature 0 only. `top_p` and `seed` mean nothing at temperature 0.
    """

    max_new_tokens: int = 40
    num_beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_integer("maximum length", self.max_new_tokens, 1, LONGEST)
        _check_integer("number of beams", self.num_beams, 1, MOST_BEAMS)
        if not 0 <= self.temperature <= HOTTEST:  # not a number fails this too
            raise QvlaError(
                f"The temperature must lie between 0 and {HOTTEST:g}, not {self.temperature}."
            )
        if not 0 < self.top_p <= 1:
            raise QvlaError(f"Top-p must be above 0 and at most 1, not {self.top_p}.")
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, LARGEST_SEED)
        if self.num_beams > 1 and self.temperature > 0:
            raise QvlaError(
                "Beam search does not sample: set the temperature to 0 or use a single beam."
            )

    @property
    def samples(self) -> bool:
        return self.temperature > 0

    def processors(self) -> LogitsProcessorList:
        """What turns `generate`'s greedy choice into this decoding; new for every generation."""
        if not self.samples:
            return LogitsProcessorList()
        processors = LogitsProcessorList([TemperatureLogitsWarper(float(self.temperature))])
        if self.top_p < 1:
            processors.append(TopPLogitsWarper(float(self.top_p)))
        processors.append(GumbelNoise(self.seed))
        return processors


class GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise, after which the largest score is a sample of the softmax (Gumbel-max).

    `generate`'s own sampling draws one number a row from the process's global generator, so that a
    caption would depend on its neighbours and on other threads. This draws from a generator of its
    own, on the CPU so that a seed means the same on every device. With a seed all rows share the
    noise of a step; without one each row has its own.
    """

    def __init__(self, seed: int | None) -> None:
        self._shared = seed is not None
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows, words = scores.shape
        exponential = torch.empty(1 if self._shared else rows, words)
        exponential.exponential_(generator=self._generator)
        smallest = torch.finfo(exponential.dtype).tiny  # the logarithm of 0 would win every time
        noise = -exponential.clamp_min_(smallest).log_()
        return scores + noise.to(scores.device)


def _check_integer(name: str, value: Any, lowest: int, highest: float) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not lowest <= value <= highest:
        limit = f"from {lowest} to {highest}" if highest < math.inf else f"of at least {lowest}"
        raise QvlaError(f"The {name} must be a whole number {limit}, not {value}.")
