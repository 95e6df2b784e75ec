"""Rows of one module tree that are answered together, a token a step, each coming and going alone.

A row that joins has its prompt read beside the others' of that moment; its keys and values then
become a row of the same cache, padded on the left to the length of the rest. A row that has ended
leaves the batch at once. Masks and positions are a row's own, so that who stands beside it changes
nothing but the last bits of its logits.

Why a loop of its own: by its source, `generate` of Transformers 5.23 takes no rows while it runs,
and its compiled decoding over a static cache wants a batch and a length that stay. Its continuous
batching is said to take no images (transformers #43386); it was not tried.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import DynamicCache, LogitsProcessorList

from qvla.models.backbone import Backbone
from qvla.models.families import family_of
from qvla.records.measure import clock


@dataclass(eq=False)
class Row:
    """One answer on its way: its tokens so far, the end of text included, and when they came.

    `name` is that of its adapter within PEFT, where the rows of a batch may differ in that. Times
    are seconds of work from the photo on: `looked` of the vision tower, then those of its cohort.
    """

    longest: int  # tokens
    processors: LogitsProcessorList
    name: str | None = None
    looked: float = 0.0
    tokens: list[int] = field(default_factory=list)
    first: float = 0.0
    newest: float = 0.0
    done: bool = False
    surprise: float = 0.0  # minus the logarithm of the probability of all tokens
    joined: float = 0.0  # the cohort's clock when it came, less `looked`


class Cohort:
    """The rows that a module tree answers now. Not for several threads at once."""

    def __init__(self, backbone: Backbone, model: Any) -> None:
        self.rows: list[Row] = []
        self.spent = 0.0  # seconds of work
        self._model = model
        self._bare: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self._device = backbone.device
        self._family = family_of(backbone.model.config)
        self._ends = self._family.end_tokens(backbone.model, backbone.processor)
        self._cache: Any = DynamicCache()
        self._mask = torch.zeros(0, 0, dtype=torch.long)  # (B, T), 0 where a row is padded
        self._positions = torch.zeros(0, dtype=torch.long)  # (B,) of the newest token
        self._tokens = torch.zeros(0, dtype=torch.long)  # (B,) the newest

    def join(
        self, rows: Sequence[Row], prompt: Mapping[str, torch.Tensor], seen: torch.Tensor
    ) -> None:
        """Reads the prompts of new rows, as `encode_text` makes them, with what was seen of their
        photos (B, N, D), and says the first token of each.
        """
        begin = clock(self._device)
        for row in rows:
            row.joined = self.spent - row.looked
        rest = dict(prompt)
        ids, mask = rest.pop("input_ids"), rest.pop("attention_mask")
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        cache = DynamicCache()
        scores = self._scores(
            rows,
            ids,
            cache,
            mask,
            positions,
            is_first_iteration=True,
            **rest,
            **self._family.given_features(seen),
        )
        tokens = self._said(rows, scores, begin)
        self._merge(rows, cache, mask, positions[:, -1], tokens)
        self._leave()

    def step(self) -> None:
        """Says the next token of every row."""
        begin = clock(self._device)
        self._mask = F.pad(self._mask, (0, 1), value=1)
        self._positions = self._positions + 1
        scores = self._scores(
            self.rows,
            self._tokens[:, None],
            self._cache,
            self._mask,
            self._positions[:, None],
            is_first_iteration=False,
        )
        self._tokens = self._said(self.rows, scores, begin)
        self._leave()

    def drop(self, rows: Collection[Row]) -> None:
        """Takes rows out that nobody waits for any more."""
        for row in rows:
            row.done = True
        self._leave()

    def _scores(
        self,
        rows: Sequence[Row],
        ids: torch.Tensor,
        cache: DynamicCache,
        mask: torch.Tensor,
        positions: torch.Tensor,
        **more: Any,
    ) -> torch.Tensor:
        """The next token's scores (B, V), float32. The cache grows by the tokens given (B, T)."""
        inputs = self._bare.prepare_inputs_for_generation(
            ids,
            past_key_values=cache,
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=positions,
            use_cache=True,
            **more,
        )
        if any(row.name is not None for row in rows):
            own = [row.name or self._model.active_adapter for row in rows]
            inputs["adapter_names"] = own
        logits = self._model(**inputs, logits_to_keep=1).logits
        return logits[:, -1].float()

    def _said(self, rows: Sequence[Row], scores: torch.Tensor, begin: float) -> torch.Tensor:
        """Picks every row's next token (B,) and writes it down."""
        picked = scores.argmax(-1)
        for place, row in enumerate(rows):
            if row.processors:
                before: Any = torch.tensor([row.tokens], dtype=torch.long, device=self._device)
                picked[place] = row.processors(before, scores[place, None].clone()).argmax()
        surprises = F.cross_entropy(scores, picked, reduction="none")
        said = zip(rows, picked.tolist(), surprises.tolist(), strict=True)
        self.spent += clock(self._device) - begin
        for row, token, surprise in said:
            row.tokens.append(token)
            row.surprise += surprise
            row.newest = self.spent - row.joined
            row.first = row.first or row.newest
            row.done = token in self._ends or len(row.tokens) >= row.longest
        return picked

    def _merge(
        self,
        rows: Sequence[Row],
        cache: Any,
        mask: torch.Tensor,
        positions: torch.Tensor,
        tokens: torch.Tensor,
    ) -> None:
        """Puts new rows below the others, all padded on the left to the longest."""
        if not self.rows:
            self.rows, self._cache = list(rows), cache
            self._mask, self._positions, self._tokens = mask, positions, tokens
            return
        length = max(mask.shape[1], self._mask.shape[1])

        def both(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            """Keys or values (B, H, T, D)."""
            sides = (F.pad(one, (0, 0, length - one.shape[2], 0)) for one in (old, new))
            return torch.cat(list(sides))

        for held, added in zip(self._cache.layers, cache.layers, strict=True):
            held.keys = both(held.keys, added.keys)
            held.values = both(held.values, added.values)
        masks = (F.pad(one, (length - one.shape[1], 0)) for one in (self._mask, mask))
        self._mask = torch.cat(list(masks))
        self._positions = torch.cat([self._positions, positions])
        self._tokens = torch.cat([self._tokens, tokens])
        self.rows += rows

    def _leave(self) -> None:
        """Takes out the rows that are done, and the columns that no row needs any more."""
        kept = [place for place, row in enumerate(self.rows) if not row.done]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in kept]
        index = torch.tensor(kept, dtype=torch.long, device=self._device)
        mask = self._mask[index]
        padding = int(mask.any(0).long().argmax()) if kept else 0
        self._mask = mask[:, padding:]
        self._positions, self._tokens = self._positions[index], self._tokens[index]
        if not kept:
            self._cache = DynamicCache()
            return
        for layer in self._cache.layers:
            layer.keys = layer.keys[index, :, padding:]
            layer.values = layer.values[index, :, padding:]
