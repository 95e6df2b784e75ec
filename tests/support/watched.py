"""Decoding that lets a test see the logits of every step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import LogitsProcessorList

from qvla.captioning.decoding import Decoding


@dataclass(frozen=True)
class Watched(Decoding):
    """Greedy decoding that writes down the logits of every step: (rows, V) each."""

    steps: list[torch.Tensor] = field(default_factory=list)

    def processors(self) -> LogitsProcessorList:
        def watch(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            self.steps.append(logits.clone())
            return logits

        return LogitsProcessorList([watch])
