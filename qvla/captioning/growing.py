"""Keys and values of rows that are answered together, in a cache that grows with them.

Rows are padded on the left to the length of the longest; masks and positions are a row's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import DynamicCache

Names = Sequence[str | None]  # of the rows' adapters within PEFT; None where all are of one kind


@dataclass
class State:
    """What is known of B rows of a padded length of T tokens."""

    cache: Any  # a Cache of Transformers, (B, H, T, D) keys and values a layer
    mask: torch.Tensor  # (B, T), 0 where a row is padded
    positions: torch.Tensor  # (B,) of the newest token
    tokens: torch.Tensor  # (B,) the newest, which the cache does not hold yet
    names: list[str | None]

    @classmethod
    def empty(cls) -> State:
        nothing = torch.zeros(0, dtype=torch.long)
        return cls(DynamicCache(), nothing[:, None], nothing, nothing, [])


class Held(Protocol):
    """Where the rows of a batch are kept between two tokens."""

    def add(self, new: State) -> None:
        """Puts new rows below the others."""

    def step(self) -> torch.Tensor:
        """The next token's scores (B, V), float32, after reading the newest."""

    def say(self, tokens: torch.Tensor) -> None:
        """Makes these (B,) the newest tokens."""

    def keep(self, places: Sequence[int]) -> None:
        """Leaves out all rows but these."""


class Growing:
    """Tensors of new shapes at every step: what a CPU does best with."""

    def __init__(self, model: Any, state: State | None = None) -> None:
        self._model = model
        self._state = state or State.empty()

    def add(self, new: State) -> None:
        old = self._state
        if not old.names:
            self._state = new
            return
        length = max(new.mask.shape[1], old.mask.shape[1])

        def both(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
            """Keys or values (B, H, T, D)."""
            sides = (F.pad(one, (0, 0, length - one.shape[2], 0)) for one in (above, below))
            return torch.cat(list(sides))

        for held, added in zip(old.cache.layers, new.cache.layers, strict=True):
            held.keys = both(held.keys, added.keys)
            held.values = both(held.values, added.values)
        masks = (F.pad(one, (length - one.shape[1], 0)) for one in (old.mask, new.mask))
        old.mask = torch.cat(list(masks))
        old.positions = torch.cat([old.positions, new.positions])
        old.tokens = torch.cat([old.tokens, new.tokens])
        old.names += new.names

    def step(self) -> torch.Tensor:
        state = self._state
        state.mask = F.pad(state.mask, (0, 1), value=1)
        state.positions = state.positions + 1
        return next_scores(
            self._model,
            state.names,
            state.tokens[:, None],
            state.cache,
            state.mask,
            state.positions[:, None],
            is_first_iteration=False,
        )

    def say(self, tokens: torch.Tensor) -> None:
        self._state.tokens = tokens

    def keep(self, places: Sequence[int]) -> None:
        """Drops the columns, too, that no row needs any more."""
        state = self._state
        if not places:
            self._state = State.empty()
            return
        index = torch.tensor(places, dtype=torch.long, device=state.mask.device)
        mask = state.mask[index]
        padding = int(mask.any(0).long().argmax())
        state.mask = mask[:, padding:]
        state.positions, state.tokens = state.positions[index], state.tokens[index]
        state.names = [state.names[place] for place in places]
        for layer in state.cache.layers:
            layer.keys = layer.keys[index, :, padding:]
            layer.values = layer.values[index, :, padding:]


def next_scores(
    model: Any,
    names: Names,
    ids: torch.Tensor,
    cache: Any,
    mask: torch.Tensor,
    positions: torch.Tensor,
    **more: Any,
) -> torch.Tensor:
    """The next token's scores (B, V), float32. The cache grows by the tokens given (B, T)."""
    bare: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inputs: Mapping[str, Any] = bare.prepare_inputs_for_generation(
        ids,
        past_key_values=cache,
        attention_mask=None if bool(mask.all()) else mask,
        position_ids=positions,
        use_cache=True,
        **more,
    )
    if any(name is not None for name in names):
        own = [name or model.active_adapter for name in names]
        inputs = {**inputs, "adapter_names": own}
    logits: torch.Tensor = model(**inputs, logits_to_keep=1).logits
    return logits[:, -1].float()
