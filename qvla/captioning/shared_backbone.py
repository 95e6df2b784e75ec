"""One set of base weights, and the contenders that answer from it.

Contenders without an adapter, and those whose adapters mix, are rows of one batch. Any other
adapter has a view of its own on the same weights (`qvla.models.views`), and a batch of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from qvla.methods.bottleneck import BASE
from qvla.models.adapters import Adapter, AdapterError, join, load_adapter
from qvla.models.backbone import Backbone, Precision, load_backbone
from qvla.models.errors import BackboneError
from qvla.models.footprint import weight_bytes


@dataclass
class View:
    """A module tree over the weights, and the contenders whose adapters it carries."""

    model: PeftModel
    adapters: dict[str, str]  # contender -> adapter's name within PEFT
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


@dataclass
class SharedBackbone:
    """Base weights in a precision on a device, held once.

    Hold `lock` while generating: PEFT marks on the modules themselves which adapter answers for
    which row, so two generations at once would mix up their answers.
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
    lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self) -> None:
        """Loads the backbone if it is not there yet; raises BackboneError."""
        if self.backbone is None:
            self.backbone = load_backbone(
                self.model, self.precision, device=self.device, embeddings=self.embeddings
            )
            self.backbone.model.eval()

    @property
    def loaded(self) -> Backbone:
        """The backbone that `load` has brought; raises BackboneError before."""
        if self.backbone is None:
            raise BackboneError(f"{self.model} is not loaded: load it first.")
        return self.backbone

    def attach(self, contender: str, folder: str | Path) -> None:
        """Makes this folder's adapter answer as the contender; on AdapterError the old one does."""
        # PEFT finds an adapter's weights by its name, which must be no name within the model.
        name = f"pane_{contender}"
        old = self.view_of(contender)
        old_name = None if old is None else old.adapters[contender]
        name = name if name != old_name else f"{name}_swapped"
        adapter = load_adapter(self.loaded, folder, name)
        view = self._mixing_view(adapter)
        if view is None:
            view = View(adapter.model, {}, adapter.mixes, adapter.changes_sight)
            self.views.append(view)
        else:
            join(view.model, adapter, name)
        if old is not None:
            self._forget(old, contender, stays=old is view)
        view.adapters[contender] = name
        self.adapter_bytes[contender] = adapter.own_bytes

    def detach(self, contender: str) -> None:
        """Takes the contender's adapter off."""
        view = self.view_of(contender)
        if view is not None:
            self._forget(view, contender)
            del self.adapter_bytes[contender]

    def view_of(self, contender: str) -> View | None:
        """The view with the contender's adapter, None when it has none."""
        return next((view for view in self.views if contender in view.adapters), None)

    def batches(self, contenders: Sequence[str]) -> list[Batch]:
        """The batches in which contenders answer; those without an adapter come first in theirs.

        Raises AdapterError when one that needs an adapter has lost it.
        """
        plain: list[str] = []
        rows: list[tuple[View | None, list[str]]] = []
        for contender in contenders:
            view = self.view_of(contender)
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
        return [self._batch(view, names) for view, names in rows]

    def model_of(self, contender: str) -> PreTrainedModel | PeftModel:
        """The module tree that answers for the contender alone, its adapter being active."""
        view = self.view_of(contender)
        if view is None:
            return self.loaded.model
        if view.mixes:
            view.model.set_adapter(view.adapters[contender], inference_mode=True)
        return view.model

    def weight_bytes(self) -> int:
        """Bytes of the base's weights, without any adapter's."""
        return weight_bytes(self.loaded.model)

    def _batch(self, view: View | None, names: list[str]) -> Batch:
        if view is None:
            return Batch(self.loaded.model, tuple(names), None, False)
        own = tuple(view.adapters.get(name, BASE) for name in names)
        return Batch(view.model, tuple(names), own if view.mixes else None, view.changes_sight)

    def _mixing_view(self, adapter: Adapter) -> View | None:
        """The view that the adapter can join: one of adapters of its tuner that mix."""
        if not adapter.mixes:
            return None
        kind = adapter.files.config.peft_type
        for view in self.views:
            if view.mixes and view.model.peft_type == kind:
                return view
        return None

    def _forget(self, view: View, contender: str, *, stays: bool = False) -> None:
        """Takes an adapter off a view; the last one takes the view with it, unless it `stays`."""
        name = view.adapters.pop(contender)
        if view.adapters or stays:
            view.model.delete_adapter(name)
        else:
            self.views.remove(view)
