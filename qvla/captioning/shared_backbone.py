"""One set of base weights, and the contenders that answer from it.

Contenders without an adapter, and those whose adapters mix, are rows of one batch. Any other
adapter has a view of its own on the same weights (`qvla.models.views`), and a batch of its own.
A contender may have a second adapter, which answers questions about photos in place of the first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from qvla.captioning.familiarity import Familiarity, familiarity_of
from qvla.captioning.graphs import Graphs
from qvla.captioning.overflow import OVERFLOWED, give_back, overflows_at
from qvla.captioning.turn_lock import TurnLock
from qvla.methods.bottleneck import BASE
from qvla.models.adapter_files import QUESTIONS, questions_within
from qvla.models.adapters import Adapter, AdapterError, join, load_adapter
from qvla.models.backbone import Backbone, Precision, load_backbone
from qvla.models.errors import BackboneError
from qvla.models.footprint import weight_bytes

log = logging.getLogger(__name__)


@dataclass
class View:
    """A module tree over the weights, and the contenders whose adapters it carries.

    `adapters` are their names within PEFT by contender, or by `for_questions` of one.
    """

    model: PeftModel
    adapters: dict[str, str]
    mixes: bool
    changes_sight: bool = False


@dataclass(frozen=True)
class Batch:
    """Contenders that are rows of one generation, in this order.

    `row_adapters` names the adapter of each contender's rows within PEFT; None where the whole
    batch is of one kind. With `changes_sight` the model must look at the photos itself.
    """

    model: PreTrainedModel | PeftModel
    contenders: tuple[str, ...]
    row_adapters: tuple[str, ...] | None
    changes_sight: bool


@dataclass(eq=False)
class SharedBackbone:
    """Base weights in a precision on a device, held once.

    Hold `lock` while computing: PEFT marks on the modules themselves which adapter answers for
    which row, so two threads at once would mix up their answers.
    """

    model: str
    precision: Precision
    device: str
    backbone: Backbone | None = None
    embeddings: str | None = None  # of NF4, see `load_backbone`
    device_lock: Path | None = None  # see `sharing`
    views: list[View] = field(default_factory=list)
    adapter_bytes: dict[str, int] = field(default_factory=dict)  # contender -> bytes of its own
    # Titles of the contenders that answer only with an adapter, by name.
    needing: dict[str, str] = field(default_factory=dict)
    lock: TurnLock = field(default_factory=TurnLock)
    graphs: Graphs = field(default_factory=Graphs)
    remark: str = ""  # that it is not in float16 though it was to be
    familiarity: Familiarity | None = None  # with what the base was trained on, where it is known

    def load(self) -> None:
        """Loads the backbone if it is not there yet; raises BackboneError.

        One in float16 that overflows there is loaded again in float32.
        """
        if self.backbone is not None:
            return
        backbone = self._loaded()
        if (place := overflows_at(backbone)) is not None:
            log.warning("%s overflows float16 at %s: %s", backbone.name, place, OVERFLOWED)
            self.remark = OVERFLOWED
            if not self.precision.is_quantised:
                self.precision = Precision.FP32
            del backbone
            give_back(self.device)
            backbone = self._loaded(compute=torch.float32)
        backbone.model.eval()
        self.familiarity = familiarity_of(self.model)
        self.backbone = backbone

    def _loaded(self, compute: torch.dtype | None = None) -> Backbone:
        return load_backbone(
            *(self.model, self.precision),
            device=self.device,
            embeddings=self.embeddings,
            compute=compute,
        )

    @cached_property
    def stream(self) -> torch.cuda.Stream:
        """In which CUDA answers from this backbone, beside other backbones."""
        return torch.cuda.Stream(self.device)

    def unload(self) -> None:
        """Forgets the weights again, which nobody may be answering from."""
        self.backbone = None
        self.graphs.forget()

    @property
    def loaded(self) -> Backbone:
        """The backbone that `load` has brought; raises BackboneError before."""
        if self.backbone is None:
            raise BackboneError(f"{self.model} is not loaded: load it first.")
        return self.backbone

    def attach(self, contender: str, folder: str | Path) -> None:
        """Makes this folder's adapter answer as the contender; on AdapterError the old one does.

        An adapter in a folder `vqa` within answers the questions that the contender is asked.
        """
        # PEFT finds an adapter's weights by its name, which must be no name within the model.
        folders = {contender: (f"pane_{contender}", folder)}
        if (within := questions_within(folder)) is not None:
            folders[for_questions(contender)] = (f"vqa_{contender}", within)
        placed: list[tuple[str, View, str]] = []
        nbytes = 0
        try:
            for key, (name, place) in folders.items():
                old = self.view_of(key)
                name = name if old is None or old.adapters[key] != name else f"{name}_swapped"
                adapter = load_adapter(self.loaded, place, name)
                placed.append((key, self._placed(adapter, name), name))
                nbytes += adapter.own_bytes
        except AdapterError:
            for _, view, name in placed:
                self._drop(view, name)
            raise
        self.detach(contender, placed)
        self.adapter_bytes[contender] = nbytes

    def detach(self, contender: str, placed: Sequence[tuple[str, View, str]] = ()) -> None:
        """Takes the contender's adapters off, and lets those that were `placed` answer instead."""
        old = [
            (view, view.adapters.pop(key))
            for key in (contender, for_questions(contender))
            if (view := self.view_of(key)) is not None
        ]
        for key, view, name in placed:
            view.adapters[key] = name
        for view, name in old:
            self._drop(view, name)
        self.adapter_bytes.pop(contender, None)

    def view_of(self, contender: str) -> View | None:
        """The view with the contender's adapter, None when it has none."""
        return next((view for view in self.views if contender in view.adapters), None)

    def parts_questions(self, contenders: Sequence[str]) -> bool:
        """Whether one of them answers questions by another adapter than it captions by."""
        return any(self._key(one, questions=True) != one for one in contenders)

    def batches(self, contenders: Sequence[str], *, questions: bool = False) -> list[Batch]:
        """The batches in which contenders caption, or answer questions; those without an adapter
        come first in theirs.

        Raises AdapterError when one that needs an adapter has lost it.
        """
        plain: list[str] = []
        rows: list[tuple[View | None, list[str]]] = []
        for contender in contenders:
            view = self.view_of(self._key(contender, questions))
            if view is None:
                if contender in self.needing:
                    title = self.needing[contender]
                    raise AdapterError(f"{title} has lost its adapter meanwhile: compare again.")
                plain.append(contender)
                continue
            own = next((names for held, names in rows if held is view), None)
            if own is None:
                rows.append((view, [contender]))
            else:
                own.append(contender)
        if plain:
            mixing = next((names for view, names in rows if view is not None and view.mixes), None)
            if mixing is None:
                rows.insert(0, (None, list(plain)))
            else:
                mixing[:0] = plain
        return [self._batch(view, names, questions) for view, names in rows]

    def model_of(self, contender: str) -> PreTrainedModel | PeftModel:
        """The module tree that captions for the contender alone, its adapter being active."""
        view = self.view_of(contender)
        if view is None:
            return self.loaded.model
        if view.mixes:
            view.model.set_adapter(view.adapters[contender], inference_mode=True)
        return view.model

    def weight_bytes(self) -> int:
        """Bytes of the base's weights, without any adapter's."""
        return weight_bytes(self.loaded.model)

    def _batch(self, view: View | None, names: list[str], questions: bool) -> Batch:
        if view is None:
            return Batch(self.loaded.model, tuple(names), None, False)
        own = tuple(view.adapters.get(self._key(name, questions), BASE) for name in names)
        return Batch(view.model, tuple(names), own if view.mixes else None, view.changes_sight)

    def _key(self, contender: str, questions: bool) -> str:
        """Under which the adapter lies that answers, if the contender has any."""
        asked = for_questions(contender)
        return asked if questions and self.view_of(asked) is not None else contender

    def _placed(self, adapter: Adapter, name: str) -> View:
        """The view that the adapter has joined: one of adapters of its tuner that mix, or its own.

        It does not answer yet.
        """
        self.graphs.forget()
        kind = adapter.files.config.peft_type
        for view in self.views:
            if adapter.mixes and view.mixes and view.model.peft_type == kind:
                join(view.model, adapter, name)
                return view
        view = View(adapter.model, {}, adapter.mixes, adapter.changes_sight)
        self.views.append(view)
        return view

    def _drop(self, view: View, name: str) -> None:
        """Takes an adapter that answers no longer off a view; the last takes the view with it."""
        self.graphs.forget()
        if view.adapters:
            view.model.delete_adapter(name)
        else:
            self.views = [one for one in self.views if one is not view]


def for_questions(contender: str) -> str:
    """The key of the contender's second adapter; no contender can have this name."""
    return f"{contender}/{QUESTIONS}"
