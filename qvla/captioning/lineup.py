"""The line-up: contenders over shared weights.

This file alone decides which weights answer under which name. Weights are held once for each base
and precision (`shared_backbone`). The engine asks for the backbone of a contender, and holds its
lock while it generates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from qvla.captioning.contenders import (
    VARIANTS,
    Contender,
    LineupError,
    default_contenders,
)
from qvla.captioning.shared_backbone import SharedBackbone
from qvla.errors import QvlaError
from qvla.models.adapters import AdapterError
from qvla.models.backbone import Precision
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


class Lineup:
    """Contenders with their weights, made by `Lineup.load` or `Lineup.of`."""

    def __init__(
        self, contenders: Sequence[Contender], backbones: dict[str, SharedBackbone]
    ) -> None:
        """`backbones` are by contender; several contenders may have the same one."""
        self._contenders = {contender.name: contender for contender in contenders}
        self._shared = backbones
        self._variants: dict[str, Variant] = {}

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
        variants: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Lineup:
        """Loads what can be loaded; `variant(...).reason` tells in words what could not.

        A precision of auto is bf16 on CUDA and fp32 on the CPU; `nf4_embeddings` are as in
        `load_backbone`. Only what the asked `variants` answer from is loaded, all by default; a
        contender that needs an adapter and has none loads nothing until `swap_adapter` brings one.
        With a `device_lock` captioning goes before fine-tunes on the same device (`sharing`).
        `progress` is called with a sentence before each step. Raises BackboneError when the float
        base of the first contender is needed and cannot be loaded, and QvlaError for a name that
        is no contender's.
        """
        report = progress or log.info
        transformers_logging.disable_progress_bar()  # `report` tells instead
        device = device_of(device)
        held: dict[tuple[str, Precision], SharedBackbone] = {}
        backbones = {}
        for contender in contenders:
            precision = precision_of(contender.precision, device)
            key = (_identity(contender.base), precision)
            if key not in held:
                held[key] = SharedBackbone(
                    contender.base,
                    precision,
                    device,
                    embeddings=nf4_embeddings if precision is Precision.NF4 else None,
                    device_lock=device_lock,
                )
            backbones[contender.name] = held[key]
            if contender.needs_adapter:
                held[key].needing[contender.name] = contender.title
        lineup = cls(contenders, backbones)
        asked = lineup.names() if variants is None else variants
        for name in asked:
            lineup._check(name)
        for contender in contenders:
            lineup._prepare(contender, contender.name in asked, report)
        ready = ", ".join(one.title for one in lineup.variants() if one.available)
        report(f"Ready: {ready or 'none'}.")
        return lineup

    def names(self) -> tuple[str, ...]:
        """The contenders' names, in the order of the panes."""
        return tuple(self._contenders)

    def title(self, name: str) -> str:
        self._check(name)
        return self._contenders[name].title

    def variant(self, name: str) -> Variant:
        """Who answers under this name now; raises QvlaError for a name that is no contender's."""
        self._check(name)
        return self._variants[name]

    def variants(self) -> list[Variant]:
        return [self._variants[name] for name in self._contenders]

    def shared(self, name: str) -> SharedBackbone:
        """The backbone on which a contender answers, with its lock."""
        self._check(name)
        return self._shared[name]

    def swap_adapter(self, name: str, folder: str | Path, *, shown: str | None = None) -> None:
        """Puts another adapter behind a contender, once the generation under way has ended.

        It is shown under `shown`, or else its folder's name. All or nothing: on AdapterError (or
        BackboneError, where the weights had yet to be loaded) the contender answers as before.
        """
        shared = self._adapted(name)
        with shared.lock:
            shared.load()
            shared.attach(name, folder)
            self._record(name, folder=shown or folder)

    def drop_adapter(self, name: str) -> None:
        """Leaves a contender without its adapter, once the generation under way has ended."""
        shared = self._adapted(name)
        with shared.lock:
            shared.detach(name)
            self._record(name, reason=NO_ADAPTER)

    def _prepare(self, contender: Contender, asked: bool, report: Progress) -> None:
        """Loads what one contender answers from, and writes down how it stands."""
        shared = self._shared[contender.name]
        if not asked:
            self._record(contender.name, reason=NOT_ASKED)
            return
        if contender.adapter is None and contender.needs_adapter:
            self._record(contender.name, reason=NO_ADAPTER)
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
            first = self._shared[next(iter(self._contenders))]
            if isinstance(error, BackboneError) and shared is first:
                raise
            log.warning("%s is not available: %s", contender.title, error)
            self._record(contender.name, reason=str(error))
        else:
            self._record(contender.name, folder=contender.adapter)

    def _record(self, name: str, *, folder: str | Path | None = None, reason: str = "") -> None:
        shared = self._shared[name]
        backbone = shared.backbone
        self._variants[name] = Variant(
            name=name,
            title=self._contenders[name].title,
            model=Path(shared.model).name,
            adapter=None if folder is None else Path(folder).name,
            precision=shared.precision.value,
            device=shared.device if backbone is None else str(backbone.device),
            weight_bytes=0 if reason else shared.weight_bytes(name),
            available=not reason,
            reason=reason,
        )

    def _check(self, name: str) -> None:
        if name not in self._contenders:
            known = ", ".join(self._contenders)
            raise LineupError(f"There is no variant {name!r} here: choose one of {known}.")

    def _adapted(self, name: str) -> SharedBackbone:
        self._check(name)
        if not self._contenders[name].needs_adapter:
            raise LineupError(f"{name} answers without an adapter: name a variant that has one.")
        return self._shared[name]


def device_of(device: str) -> str:
    """The device that `auto` stands for here: CUDA where there is one, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision_of(precision: str, device: str) -> Precision:
    """The precision that `auto` stands for on a device: bf16 on CUDA and fp32 on the CPU."""
    if precision == "auto":
        return Precision.BF16 if device.startswith("cuda") else Precision.FP32
    try:
        return Precision(precision)
    except ValueError:
        known = ", ".join(one.value for one in Precision)
        raise QvlaError(
            f"There is no precision {precision!r}: use auto or one of {known}."
        ) from None


def _identity(base: str) -> str:
    """The same for all spellings of one folder; a hub id as it is."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base
