"""Rows of one module tree that are answered together, a token a step, each coming and going alone.

A row that joins has its prompt read beside the others' of that moment; its keys and values then
become a row of the same cache, padded on the left to the length of the rest. A row that has ended
leaves the batch at once. Masks and positions are a row's own, so that who stands beside it changes
nothing but the last bits of its logits.

Why a loop of its own: what Transformers 5.23 has was tried on the embedded model. `generate` over a
static cache says the same tokens, but takes no rows while it runs; its compiled decoding is for
accelerators alone, for no model of bitsandbytes (its quantisers do not offer it), and of one batch
size and length. Its continuous batching (`generate_batch`) takes lists of token numbers: neither
pixels nor image features have a way in, nor the name of a row's adapter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache, LogitsProcessorList

from qvla.captioning.growing import Growing, Held, State, next_scores
from qvla.models.backbone import Backbone
from qvla.models.families import family_of


@dataclass(eq=False)
class Row:
    """One answer on its way: its tokens so far, the end of text included, and when they came.

    `name` is that of its adapter within PEFT, where the rows of a batch may differ in that. Times
    are seconds of work from the photo on: `looked` of the vision tower, then those of its cohort.
    """

    longest: int  # tokens
    processors: LogitsProcessorList  # the same for rows that came together
    name: str | None = None
    looked: float = 0.0
    tokens: list[int] = field(default_factory=list)
    first: float = 0.0
    newest: float = 0.0
    done: bool = False
    surprise: float = 0.0  # minus the logarithm of the probability of all tokens
    joined: float = 0.0  # the cohort's clock when it came, less `looked`


@dataclass
class Said:
    """What rows said in a step, on its way to the host; (B,) each."""

    rows: list[Row]
    tokens: torch.Tensor
    surprises: torch.Tensor
    arrived: torch.cuda.Event | None  # None on the CPU, where it is there at once


def reads_late(device: torch.device) -> bool:
    """Whether what a step said is read after the next has been begun, so that the device need not
    wait for the host. A row that has ended says one token more then, which is thrown away.
    """
    return device.type == "cuda"


class Cohort:
    """The rows that a module tree answers now. Not for several threads at once."""

    def __init__(self, backbone: Backbone, model: Any, held: Held | None = None) -> None:
        """`held` are where rows are kept between two tokens, by default in a growing cache."""
        self.rows: list[Row] = []
        self.spent = 0.0  # seconds of work
        self._model = model
        self._held = held or Growing(model)
        self._unread: list[Said] = []
        self._device = backbone.device
        self._unread_steps = 1 if reads_late(backbone.device) else 0
        self._family = family_of(backbone.model.config)
        self._ends = self._family.end_tokens(backbone.model, backbone.processor)

    def join(
        self, rows: Sequence[Row], prompt: Mapping[str, torch.Tensor], seen: torch.Tensor
    ) -> None:
        """Reads the prompts of new rows, as `encode_text` makes them, with what was seen of their
        photos (B, N, D), and says the first token of each.
        """
        self._read(perf_counter())
        begin = perf_counter()
        for row in rows:
            row.joined = self.spent - row.looked
        rest = dict(prompt)
        ids, mask = rest.pop("input_ids"), rest.pop("attention_mask")
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        cache = DynamicCache()
        names = [row.name for row in rows]
        first = {**rest, **self._family.given_features(seen), "is_first_iteration": True}
        scores = next_scores(self._model, names, ids, cache, mask, positions, **first)
        tokens = self._pick(rows, scores)
        self._held.add(State(cache, mask, positions[:, -1], tokens, names))
        self.rows += rows
        self._read(begin)

    def step(self) -> None:
        """Says the next token of every row."""
        begin = perf_counter()
        self._held.say(self._pick(self.rows, self._held.step()))
        self._read(begin, leave=self._unread_steps)

    @torch.inference_mode()
    def drop(self, rows: Collection[Row]) -> None:
        """Takes rows out that nobody waits for any more."""
        for row in rows:
            row.done = True
        self._leave()

    def _pick(self, rows: Sequence[Row], scores: torch.Tensor) -> torch.Tensor:
        """Every row's next token (B,), which is to be read later."""
        picked = scores.argmax(-1)
        for places in _together(rows):
            own = rows[places]
            said: Any = torch.tensor([row.tokens for row in own], device=self._device).long()
            picked[places] = own[0].processors(said, scores[places].clone()).argmax(-1)
        surprises = F.cross_entropy(scores, picked, reduction="none")
        arrived = None
        tokens, unlikely = (one.to("cpu", non_blocking=True) for one in (picked, surprises))
        if self._device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
        self._unread.append(Said(list(rows), tokens, unlikely, arrived))
        return picked

    def _read(self, begin: float, leave: int = 0) -> None:
        """Writes down what was said, but for so many of the last steps; the work began then."""
        while len(self._unread) > leave:
            said = self._unread.pop(0)
            if said.arrived is not None:
                said.arrived.synchronize()
            now = perf_counter()
            self.spent += now - begin
            begin = now
            for row, token, surprise in zip(
                said.rows, said.tokens.tolist(), said.surprises.tolist(), strict=True
            ):
                if row.done:
                    continue
                row.tokens.append(token)
                row.surprise += surprise
                row.newest = self.spent - row.joined
                row.first = row.first or row.newest
                row.done = token in self._ends or len(row.tokens) >= row.longest
        self._leave()

    def _leave(self) -> None:
        """Takes out the rows that are done."""
        kept = [place for place, row in enumerate(self.rows) if not row.done]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in kept]
        self._held.keep(kept)
        if not kept:
            self._unread.clear()


def _together(rows: Sequence[Row]) -> Iterator[slice]:
    """Runs of rows whose next token the same processors choose, if any do."""
    begin = 0
    for _, run in groupby(rows, key=lambda row: id(row.processors)):
        end = begin + len(list(run))
        if rows[begin].processors:
            yield slice(begin, end)
        begin = end
