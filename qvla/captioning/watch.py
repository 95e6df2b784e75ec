"""What a generation tells while it runs: each row's tokens, when they came and how likely."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import LogitsProcessor, StoppingCriteria

from qvla.records.measure import stream_clock


@dataclass
class Row:
    """One row's tokens so far, the end of text included, and when they came."""

    tokens: list[int]
    first: float = 0.0  # clock readings
    newest: float = 0.0
    end: float | None = None
    surprise: float = 0.0  # minus the logarithm of the probability of all tokens


class _Given(LogitsProcessor):
    """Keeps the scores of a step as the model gave them, before any decoding changes them."""

    def __init__(self) -> None:
        self.scores: torch.Tensor | None = None  # (B, V)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.scores = scores
        return scores


class Watch(StoppingCriteria):
    """Stamps every token as `generate` picks it, and ends the generation when it is cancelled.

    A stopping criterion rather than a streamer, because `generate` takes no streamer with beams.
    Of beams, which may yet be dropped, only the time of the first step is taken.
    """

    def __init__(
        self,
        rows: int,
        ends: set[int],
        beams: bool,
        device: torch.device,
        cancelled: threading.Event,
    ) -> None:
        self.rows = [Row([]) for _ in range(rows)]
        self.given = _Given()
        self._ends = ends
        self._beams = beams
        self._device = device
        self._cancelled = cancelled

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        now = stream_clock(self._device)
        for row in self.rows:
            row.first = row.first or now
        if not self._beams:
            tokens = input_ids[:, -1]
            assert self.given.scores is not None  # `generate` asks the processors first
            surprises = cross_entropy(self.given.scores, tokens, reduction="none")
            steps = zip(self.rows, tokens.tolist(), surprises.tolist(), strict=True)
            for row, token, surprise in steps:
                if row.end is None:
                    row.tokens.append(token)
                    row.surprise += surprise
                    row.newest = now
                    row.end = now if token in self._ends else None
        stop = self._cancelled.is_set()
        return torch.full((len(input_ids),), stop, dtype=torch.bool, device=input_ids.device)


def up_to_end(tokens: list[int], ends: set[int]) -> list[int]:
    """The tokens up to the end of text, that one included; what follows is the batch's padding."""
    for index, token in enumerate(tokens):
        if token in ends:
            return tokens[: index + 1]
    return tokens
