"""The line-up: contenders over shared weights, and the tasks of a bank.

This file alone decides which weights answer under which name. Weights are held once for each base
and precision (`bases`). The engine asks for the backbone of a contender, and holds its lock while
it generates. Contenders are loaded at the start and stay; tasks are loaded when they are named.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging as transformers_logging

from qvla.captioning.bank import Bank
from qvla.captioning.bases import Bases
from qvla.captioning.contenders import (
    VARIANTS,
    Contender,
    LineupError,
    check_names,
    check_new,
    default_contenders,
)
from qvla.captioning.residents import Residents
from qvla.captioning.shared_backbone import SharedBackbone
from qvla.models.adapters import AdapterError
from qvla.models.checkpoint import BackboneError

log = logging.getLogger(__name__)

NO_ADAPTER = "It has no adapter: name the folder or hub id of one made for this model."
NOT_ASKED = "It was not among the variants that were asked for."

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A contender as it stands; `weight_bytes` counts all weights that answer, 0 while none can."""

    name: str
    title: str
    model: str
    adapter: str | None
    precision: str
    device: str
    weight_bytes: int
    available: bool
    reason: str = ""
    remark: str = ""  # of the precision, where it is not the one that was asked for


class Lineup:
    """Contenders with their weights, made by `Lineup.load` or `Lineup.of`."""

    def __init__(
        self, contenders: Sequence[Contender], bases: Bases, bank: Bank | None = None
    ) -> None:
        self.bank = bank
        self._contenders = {contender.name: contender for contender in contenders}
        self._bases = bases
        self._residents = Residents(bank.limit_bytes if bank else 0)
        self._variants: dict[str, Variant] = {}
        self._changing = threading.Lock()  # one change of who is there at a time
        self._closed = ""

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        adapter: str | Path | None = None,
        nf4_adapter: str | Path | None = None,
        precision: str = "auto",
        device: str = "auto",
        nf4_embeddings: str | None = None,
        device_lock: Path | None = None,
        variants: Sequence[str] = VARIANTS,
        progress: Progress | None = None,
    ) -> Lineup:
        """The default three: `base` and `adapter` on one float base, `qvla` on the same in NF4.

        `precision` is that of the float base; for the rest, and what is raised, see `Lineup.of`.
        """
        contenders = default_contenders(
            model, adapter=adapter, nf4_adapter=nf4_adapter, precision=precision
        )
        return cls.of(
            contenders,
            device=device,
            nf4_embeddings=nf4_embeddings,
            device_lock=device_lock,
            variants=variants,
            progress=progress,
        )

    @classmethod
    def of(
        cls,
        contenders: Sequence[Contender],
        *,
        device: str = "auto",
        nf4_embeddings: str | None = None,
        device_lock: Path | None = None,
        graphs: str = "auto",
        bank: Bank | None = None,
        variants: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Lineup:
        """Loads what can be loaded; `variant(...).reason` tells in words what could not.

        A precision of auto is bf16 on CUDA and fp32 on the CPU; `nf4_embeddings` are as in
        `load_backbone`. Only what the asked `variants` answer from is loaded, all by default; a
        contender that needs an adapter and has none loads nothing until `swap_adapter` brings one,
        and a task of the `bank` nothing until it is named.
        With a `device_lock` captioning goes before fine-tunes on the same device (`sharing`).
        `progress` is called with a sentence before each step. Raises BackboneError when the float
        base of the first contender is needed and cannot be loaded, and QvlaError for a name that
        is no contender's.
        """
        report = progress or log.info
        transformers_logging.disable_progress_bar()  # `report` tells instead
        bases = Bases(device, nf4_embeddings=nf4_embeddings, device_lock=device_lock, graphs=graphs)
        lineup = cls(contenders, bases, bank)
        asked = lineup.known(variants)
        for contender in contenders:
            lineup._prepare(contender, contender.name in asked, report)
        ready = ", ".join(one.title for one in lineup.variants() if one.available)
        report(f"Ready: {ready or 'none'}.")
        return lineup

    def names(self) -> tuple[str, ...]:
        """The contenders' names, in the order of the panes."""
        return tuple(self._contenders)

    def contenders(self) -> tuple[Contender, ...]:
        return tuple(self._contenders.values())

    def tasks(self) -> tuple[Contender, ...]:
        """What the bank has besides, as it lies there now."""
        return () if self.bank is None else tuple(self.bank.tasks(self._contenders).values())

    def known(self, names: Sequence[str] | None) -> list[str]:
        """The names, of contenders or tasks, each once; of all contenders without any.

        Raises QvlaError for a name that is neither's.
        """
        if names is None:
            return list(self._contenders)
        known = [name for name in names if self._find(name) is not None]
        if not known or len(known) < len(names):  # only then is the whole bank read
            known = [*self._contenders, *(task.name for task in self.tasks())]
        return check_names(names, known)

    def title(self, name: str) -> str:
        return self._of(name).title

    def variant(self, name: str) -> Variant:
        """Who answers under this name now; raises QvlaError for a name that nobody has."""
        task = self._of(name)
        if name in self._contenders:
            return self._variants[name]
        size = self._residents.size(name)
        return self._described(task, task.adapter, extra=size, known=size > 0)

    def variants(self) -> list[Variant]:
        return [self._variants[name] for name in self._contenders]

    def shared(self, name: str) -> SharedBackbone:
        """The backbone on which a contender or task answers, with its lock."""
        return self._bases.of(self._of(name))

    def is_in_memory(self, name: str) -> bool:
        """Whether a name answers without loading anything first."""
        return name in self._contenders or name in self._residents.names()

    def has_to_bring(self, shared: SharedBackbone, names: Sequence[str]) -> bool:
        """Whether `bring` would change which adapters are on this backbone."""
        tasks = self._tasks_on(shared, names)
        return any(not self._residents.has(shared, task) for task in tasks)

    def bring(self, shared: SharedBackbone, names: Sequence[str]) -> dict[str, str]:
        """Loads the adapters of those names that are tasks, which answer on this backbone.

        Hold its lock, until they have answered. Returns why one cannot, in a sentence by its name.
        """
        return self._residents.bring(shared, self._tasks_on(shared, names))

    def close(self, why: str) -> None:
        """From now on nobody can be added, changed or taken out; who tries is told why."""
        self._closed = why

    def add(self, contender: Contender, *, shown: str | None = None) -> None:
        """Puts a further contender at the end of the line-up, ready to answer.

        All or nothing. Raises LineupError for a name or title that is taken, or when there are too
        many, and AdapterError or BackboneError where it cannot be loaded.
        """
        with self._changing:
            self._check_open()
            check_new(contender, self.contenders(), self.tasks())
            shared = self._bases.of(contender)
            with shared.lock:
                was_loaded = shared.backbone is not None
                try:
                    shared.load()
                    if contender.adapter is not None:
                        shared.attach(contender.name, contender.adapter)
                except AdapterError:
                    if not was_loaded:
                        shared.unload()  # nobody else answers from it
                    raise
                self._record(contender, folder=shown or contender.adapter)
                self._contenders = {**self._contenders, contender.name: contender}

    def remove(self, name: str) -> None:
        """Takes a contender out of the line-up, once the generation under way has ended."""
        with self._changing:
            self._check_open()
            contender = self._checked(name)
            if len(self._contenders) == 1:
                raise LineupError(f"{contender.title} is the last one there: leave it.")
            shared = self._bases.of(contender)
            with shared.lock:
                others = {key: one for key, one in self._contenders.items() if key != name}
                self._contenders = others
                shared.needing[name] = contender.title  # who still waits to ask it is told so
                shared.detach(name)

    def swap_adapter(self, name: str, folder: str | Path, *, shown: str | None = None) -> None:
        """Puts another adapter behind a contender, once the generation under way has ended.

        It is shown under `shown`, or else its folder's name. All or nothing: on AdapterError (or
        BackboneError, where the weights had yet to be loaded) the contender answers as before.
        """
        shared = self._adapted(name)
        with shared.lock:
            shared.load()
            shared.attach(name, folder)
            self._record(self._carrying(name, str(folder)), folder=shown or folder)

    def drop_adapter(self, name: str) -> None:
        """Leaves a contender without its adapter, once the generation under way has ended."""
        shared = self._adapted(name)
        with shared.lock:
            shared.detach(name)
            self._record(self._carrying(name, None), reason=NO_ADAPTER)

    def _tasks_on(self, shared: SharedBackbone, names: Sequence[str]) -> list[Contender]:
        if self.bank is None:
            return []
        found = [self.bank.find(name) for name in names if name not in self._contenders]
        return [task for task in found if task is not None and self._bases.of(task) is shared]

    def _carrying(self, name: str, adapter: str | None) -> Contender:
        """The contender, from now on with this adapter."""
        contender = self._contenders[name].model_copy(update={"adapter": adapter})
        self._contenders = {**self._contenders, name: contender}
        return contender

    def _prepare(self, contender: Contender, asked: bool, report: Progress) -> None:
        """Loads what one contender answers from, and writes down how it stands."""
        shared = self._bases.of(contender)
        if not asked:
            self._record(contender, reason=NOT_ASKED)
            return
        if contender.adapter is None and contender.needs_adapter:
            self._record(contender, reason=NO_ADAPTER)
            return
        base = Path(contender.base).name
        try:
            if shared.backbone is None:
                report(f"Loading {base} in {shared.precision.value} on {shared.device}.")
                shared.load()
            if contender.adapter is not None:
                report(f"Attaching the adapter {Path(contender.adapter).name} to {base}.")
                shared.attach(contender.name, contender.adapter)
        except (AdapterError, BackboneError) as error:
            first = self._bases.of(next(iter(self._contenders.values())))
            if isinstance(error, BackboneError) and shared is first:
                raise
            log.warning("%s is not available: %s", contender.title, error)
            self._record(contender, reason=str(error))
        else:
            self._record(contender, folder=contender.adapter)

    def _record(
        self, contender: Contender, *, folder: str | Path | None = None, reason: str = ""
    ) -> None:
        extra = self._bases.of(contender).adapter_bytes.get(contender.name, 0)
        self._variants[contender.name] = self._described(
            contender, folder, extra=extra, known=not reason, reason=reason
        )

    def _described(
        self,
        contender: Contender,
        folder: str | Path | None,
        *,
        extra: int,
        known: bool,
        reason: str = "",
    ) -> Variant:
        """`extra` are the bytes of its own adapter, beside the base's; `known`: it was loaded."""
        shared = self._bases.of(contender)
        backbone = shared.backbone
        return Variant(
            name=contender.name,
            title=contender.title,
            model=Path(shared.model).name,
            adapter=None if folder is None else Path(folder).name,
            precision=shared.precision.value,
            device=shared.device if backbone is None else str(backbone.device),
            weight_bytes=shared.weight_bytes() + extra if known else 0,
            available=not reason,
            reason=reason,
            remark=shared.remark,
        )

    def _of(self, name: str) -> Contender:
        """The contender or task of that name."""
        return self._find(name) or self._checked(name)

    def _find(self, name: str) -> Contender | None:
        found = self._contenders.get(name)
        return self.bank.find(name) if found is None and self.bank is not None else found

    def _checked(self, name: str) -> Contender:
        found = self._contenders.get(name)
        if found is None:
            known = ", ".join(self._contenders)
            raise LineupError(f"There is no variant {name!r} here: choose one of {known}.")
        return found

    def _check_open(self) -> None:
        if self._closed:
            raise LineupError(self._closed)

    def _adapted(self, name: str) -> SharedBackbone:
        self._check_open()
        contender = self._checked(name)
        if not contender.needs_adapter:
            raise LineupError(f"{name} answers without an adapter: name a variant that has one.")
        return self._bases.of(contender)
