"""Counts that others report, counted again from the configuration of the model they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor, log10
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from qvla.models.params import read_model_config
from qvla.planning.trainable import Skeleton
from qvla.records.reported import reported_adapters

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Claim:
    """A reported figure, in the words it was said in, and what counting gives."""

    what: str
    said: str
    value: int
    digits: int
    counted: int

    @property
    def agrees(self) -> bool:
        """Whether the count comes to the same in the digits that were given."""
        scale = 10 ** (floor(log10(self.counted)) + 1 - self.digits)
        return round(self.counted / scale) == round(self.value / scale)

    @property
    def difference(self) -> int:
        """What the report has more; negative where it has less."""
        return self.value - self.counted


@lru_cache(maxsize=2)
def claims(model: str | None = None) -> tuple[Claim, ...]:
    """The reported counts with ours beside them; raises BackboneError for a model not at hand."""
    told = reported_adapters()
    return tuple(
        Claim(one["what"], one["said"], one["value"], one["digits"], _count(model, told, one))
        for one in told["claims"]
    )


@lru_cache(maxsize=8)
def lora_by_names(model: str | Path, rank: int, targets: tuple[str, ...]) -> tuple[int, int]:
    """Trained and all parameters as PEFT prints them of LoRA around the linear layers of these
    names, wherever in the model they are: in both towers, where both have them.
    """
    skeleton = Skeleton(read_model_config(model))
    config = LoraConfig(r=rank, target_modules=list(targets))
    with torch.device("meta"):
        adapted = get_peft_model(skeleton.model, config)
    sizes = [(one.numel(), one.requires_grad) for one in adapted.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def _count(model: str | None, told: dict[str, Any], claim: dict[str, Any]) -> int:
    name = model or claim.get("model", told["model"])
    if claim["of"] == "nf4_bytes":
        return Skeleton(read_model_config(name)).quantised_bytes["nf4"]
    if claim["of"] in ("parameters", "float32_bytes"):
        each = 1 if claim["of"] == "parameters" else FLOAT32
        return each * sum(Skeleton(read_model_config(name)).sizes)
    targets: Sequence[str] = claim["targets"]
    trained, total = lora_by_names(name, claim["rank"], tuple(targets))
    return trained if claim["of"] == "trained" else total
