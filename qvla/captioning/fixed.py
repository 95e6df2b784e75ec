"""Rows that are answered together, in tensors of one shape, so that a step can be recorded once.

A batch has places for 1, 2, 4, 8 ... rows, and room for a multiple of 64 tokens. Rows are padded on
the left to end in one column, and each writes its next key and value into the column after it.
Places without a row are computed too, and thrown away. All that changes from step to step (tokens,
positions, mask, column, and whose adapter answers for a row) lies in tensors that stay where they
are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import Cache, DynamicCache
from transformers.cache_utils import StaticLayer

from qvla.captioning.growing import State
from qvla.methods.rows import BASE, RowTuner, StandingBatch

LENGTH = 64  # tokens that the room of a batch is a multiple of
KEPT_BYTES = 2**30  # of keys and values that stay in memory when nobody is answered

Work = Callable[[], torch.Tensor]
Record = Callable[[Work], Work]  # gives what does the same work again, on the same tensors

KeysValues = tuple[torch.Tensor, torch.Tensor]  # of a layer, (B, H, T, D)


@dataclass(frozen=True)
class Shape:
    """Rows, and tokens a row, that there is room for."""

    rows: int
    length: int

    @classmethod
    def of(cls, rows: int, length: int) -> Shape:
        """The smallest for so many rows of so many tokens."""
        return cls(1 << (rows - 1).bit_length(), -(-length // LENGTH) * LENGTH)


class ColumnLayer(StaticLayer):
    """A layer of a static cache in tensors given, written at a column that its owner moves on.

    Transformers' own moves on by itself, so that no step could be made twice.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, column: torch.Tensor) -> None:
        super().__init__(keys.shape[2])
        self.keys, self.values = self._keys, self._values = keys, values
        self.cumulative_length = column
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> KeysValues:
        """One token a row, (B, H, 1, D), into the cache; all that is there."""
        self._keys.index_copy_(2, self.cumulative_length, key_states)
        self._values.index_copy_(2, self.cumulative_length, value_states)
        return self._keys, self._values


class Frame:
    """What a step of one shape reads and writes."""

    def __init__(self, shape: Shape, room: Sequence[KeysValues], names: StandingBatch | None):
        """In the first rows and columns of a room for at least as many."""
        device = room[0][0].device
        self.shape = shape
        self.names = names
        self.layers = [
            (keys[: shape.rows, :, : shape.length], values[: shape.rows, :, : shape.length])
            for keys, values in room
        ]
        self.tokens = torch.zeros(shape.rows, 1, dtype=torch.long, device=device)
        self.positions = torch.zeros_like(self.tokens)  # of these tokens
        self.mask = torch.zeros(shape.rows, shape.length, dtype=torch.bool, device=device)
        self.column = torch.zeros(1, dtype=torch.long, device=device)  # that they are written to
        self.cache = Cache(layers=[ColumnLayer(*layer, self.column) for layer in self.layers])
        self.again: Work | None = None  # the step, once it has been recorded
        self.proved = 0  # steps after which it said what it should

    def fill(self, states: Sequence[State], column: int) -> None:
        """Puts rows into the first places, so that each ends before the column."""
        self.mask.zero_()
        self.column.fill_(column)
        begin = 0
        for state in states:
            rows = slice(begin, begin + len(state.names))
            begin = rows.stop
            columns = slice(column - state.mask.shape[1], column)
            self.mask[rows, columns] = state.mask.bool()
            self.tokens[rows, 0] = state.tokens
            self.positions[rows, 0] = state.positions + 1
            for (keys, values), held in zip(self.layers, state.cache.layers, strict=True):
                # What is masked counts nothing, unless it is no number.
                keys[rows, :, : columns.start] = 0
                values[rows, :, : columns.start] = 0
                keys[rows, :, columns] = held.keys
                values[rows, :, columns] = held.values


class Fixed:
    """The rows of a module tree, as `growing.Held` has them.

    It outlives its rows, since what was recorded for a shape serves the next ones too.
    """

    def __init__(self, model: Any, record: Record | None = None) -> None:
        """Without `record` each step is worked out anew."""
        self._model = model
        self._bare: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self._record = record
        self._room: list[KeysValues] = []
        self._frames: dict[Shape, Frame] = {}
        self._frame: Frame | None = None
        self._names: list[str | None] = []  # of the rows' adapters
        self._places: list[int] = []  # of the rows in the frame
        self._index: torch.Tensor | None = None  # the same; None where they are the first
        self._column = 0

    @property
    def frame(self) -> Frame:
        """What the next step is of; there must be rows."""
        assert self._frame is not None
        return self._frame

    @property
    def has_rows(self) -> bool:
        return bool(self._places)

    def clear(self) -> None:
        """Forgets the rows. What was recorded stays, unless it keeps too much memory."""
        self._frame, self._names, self._places = None, [], []
        if sum(one.nbytes for layer in self._room for one in layer) > KEPT_BYTES:
            self._room, self._frames = [], {}

    def add(self, new: State) -> None:
        self._fill([self.state(), new] if self._places else [new])

    def step(self) -> torch.Tensor:
        if self._column == self.frame.shape.length:
            self._fill([self.state()])
        frame = self.frame
        if frame.again is None:

            def work() -> torch.Tensor:
                return self._scores(frame)

            frame.again = work if self._record is None else self._record(work)
        scores = frame.again()
        frame.column.add_(1)
        frame.positions.add_(1)
        self._column += 1
        # A copy: the next step is made in the same place.
        rows = len(self._places)
        return scores[:rows].clone() if self._index is None else scores[self._index]

    def say(self, tokens: torch.Tensor) -> None:
        rows = slice(len(tokens)) if self._index is None else self._index
        self.frame.tokens[rows, 0] = tokens

    def keep(self, places: Sequence[int]) -> None:
        """Rows stay in their places until half of all are free."""
        if not places:
            self.clear()
            return
        self._places = [self._places[place] for place in places]
        self._names = [self._names[place] for place in places]
        self._index = torch.tensor(self._places, device=self.frame.mask.device)
        if len(places) <= self.frame.shape.rows // 2:
            self._fill([self.state()])

    def state(self) -> State:
        """A copy of what is known of the rows, without columns that none of them needs."""
        frame = self.frame
        rows = torch.tensor(self._places, device=frame.mask.device)
        mask = frame.mask[rows, : self._column]
        padding = int(mask.any(0).long().argmax())
        cache = DynamicCache()
        for number, (keys, values) in enumerate(frame.layers):
            columns = slice(padding, self._column)
            cache.update(keys[rows, :, columns], values[rows, :, columns], number)
        return State(
            cache,
            mask[:, padding:].long(),
            frame.positions[rows, 0] - 1,
            frame.tokens[rows, 0],
            list(self._names),
        )

    def _fill(self, states: Sequence[State]) -> None:
        """Begins anew with these rows."""
        names = [name for state in states for name in state.names]
        column = max(state.mask.shape[1] for state in states)
        frame = self._frame_for(Shape.of(len(names), column + 1), states[0].cache)
        frame.fill(states, column)
        if frame.names is not None:
            spare = [BASE] * (frame.shape.rows - len(names))
            frame.names.rename([*self._own(names), *spare])
        self._frame, self._names, self._column = frame, names, column
        self._places, self._index = list(range(len(names))), None

    def _frame_for(self, shape: Shape, cache: Any) -> Frame:
        """That of a shape, in a room that grows with the largest."""
        room = self._room[0][0].shape if self._room else (0, 0, 0, 0)
        if shape.rows > room[0] or shape.length > room[2]:
            rows, length = max(shape.rows, room[0]), max(shape.length, room[2])

            def room_for(one: torch.Tensor) -> torch.Tensor:
                return one.new_zeros(rows, one.shape[1], length, one.shape[3])

            self._room = [(room_for(layer.keys), room_for(layer.values)) for layer in cache.layers]
            self._frames = {}  # whose steps were recorded in the smaller room
        if shape not in self._frames:
            self._frames[shape] = Frame(shape, self._room, self._batch(shape.rows))
        return self._frames[shape]

    def _batch(self, rows: int) -> StandingBatch | None:
        """Whose rows are whose, where rows may come to differ in that."""
        tuner = getattr(self._model, "base_model", None)
        if not isinstance(tuner, RowTuner):
            return None
        return StandingBatch([BASE] * rows, tuner.row_names(), self._model.device)

    def _own(self, names: Sequence[str | None]) -> list[str]:
        return [name or self._model.active_adapter for name in names]

    def _scores(self, frame: Frame) -> torch.Tensor:
        """The next token's scores of every place (B, V), float32. Changes nothing if made twice."""
        frame.mask.index_fill_(1, frame.column, True)  # of every place: a softmax of none is NaN
        inputs = self._bare.prepare_inputs_for_generation(
            frame.tokens,
            past_key_values=frame.cache,
            attention_mask=self._seen(frame),
            position_ids=frame.positions,
            use_cache=True,
            is_first_iteration=False,
        )
        if frame.names is not None:
            inputs["adapter_names"] = frame.names
        with self._alone(frame):
            logits: torch.Tensor = self._model(**inputs, logits_to_keep=1).logits
        return logits[:, -1].float()

    def _seen(self, frame: Frame) -> torch.Tensor:
        """The mask (B, 1, 1, T) as the decoder's attention takes it: it makes none itself then."""
        seen = frame.mask[:, None, None, :]
        if self._bare.config.text_config._attn_implementation != "eager":
            return seen
        added = torch.zeros_like(seen, dtype=frame.layers[0][0].dtype)
        return added.masked_fill(~seen, torch.finfo(added.dtype).min)

    @contextmanager
    def _alone(self, frame: Frame) -> Iterator[None]:
        """Has the one adapter answer that all rows are of, where the tuner cannot tell places."""
        name = next((name for name in self._names if name), None)
        if name is None or frame.names is not None:
            yield
            return
        before = self._model.active_adapter
        off = self._model.disable_adapter() if name == BASE else nullcontext()
        with off:
            if name != BASE:
                self._model.set_adapter(name, inference_mode=True)
            try:
                yield
            finally:
                self._model.set_adapter(before, inference_mode=True)
