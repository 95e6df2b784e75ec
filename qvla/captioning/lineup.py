"""The line-up: three variants of one model over two backbones.

Base and adapter are rows of one float backbone; QVLA is the NF4 backbone with its own adapter.
This file alone decides which weights answer under which name. `captioning` asks it for the backbone
and the adapter's name, and holds the backbone's lock while it generates.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from qvla.errors import QvlaError
from qvla.methods.bottleneck import BASE
from qvla.models.adapters import AdapterError, attach_adapter, detach_adapters
from qvla.models.backbone import Backbone, Precision, load_backbone
from qvla.models.checkpoint import BackboneError
from qvla.models.footprint import weight_bytes

log = logging.getLogger(__name__)

VARIANTS = ("base", "adapter", "qvla")
TITLES = {"base": "Base", "adapter": "Adapter", "qvla": "QVLA"}
NO_ADAPTER = "It has no adapter: name the folder or hub id of one made for this model."
NOT_ASKED = "It was not among the variants that were asked for."

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """Who answers in one pane; `weight_bytes` counts all weights that do, 0 while none can."""

    name: str
    title: str
    model: str
    adapter: str | None
    precision: str
    device: str
    weight_bytes: int
    available: bool
    reason: str = ""


@dataclass
class SharedBackbone:
    """A backbone and the variants on it.

    Hold `lock` while generating: PEFT marks on the modules themselves which adapter answers for
    which row, so two generations at once would mix up their answers.
    """

    model: str
    precision: Precision
    device: str
    variants: tuple[str, ...]
    backbone: Backbone | None = None
    embeddings: str | None = None  # of NF4, see `load_backbone`
    device_lock: Path | None = None  # see `qvla.captioning.sharing`
    adapters: dict[str, str] = field(default_factory=dict)  # variant -> adapter's name within PEFT
    lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self) -> None:
        """Loads the backbone if it is not there yet; raises BackboneError."""
        if self.backbone is None:
            self.backbone = load_backbone(
                self.model, self.precision, device=self.device, embeddings=self.embeddings
            )
            self.backbone.model.eval()

    def attach(self, variant: str, folder: str | Path) -> None:
        """Makes this folder's adapter answer as the variant; on AdapterError the old one stays."""
        backbone = self.backbone
        old = self.adapters.get(variant)
        name = f"{variant}_swapped" if old == variant else variant
        try:
            alone = set(self.adapters) <= {variant}
            attach_adapter(backbone, folder, name, in_place_of_all=alone)
        except Exception:
            self._forget(name)
            raise
        backbone.model.eval()
        backbone.model.set_adapter(name, inference_mode=True)
        self.adapters[variant] = name
        if old is not None:
            self._forget(old)

    def detach(self, variant: str) -> None:
        """Takes the variant's adapter off."""
        name = self.adapters.pop(variant, None)
        if name is None:
            return
        if self.adapters:
            self._forget(name)
        else:
            detach_adapters(self.backbone)

    def row_names(self, variants: Sequence[str], images: int) -> list[str]:
        """PEFT's adapter name of each row: all images of one variant, then of the next."""
        gone = [TITLES[name] for name in variants if name != "base" and name not in self.adapters]
        if gone:
            raise AdapterError(f"{gone[0]} has lost its adapter meanwhile: compare again.")
        names = [BASE if name == "base" else self.adapters[name] for name in variants]
        return [name for name in names for _ in range(images)]

    def _forget(self, name: str) -> None:
        if name in getattr(self.backbone.model, "peft_config", {}):
            self.backbone.model.delete_adapter(name)


class Lineup:
    """The three variants, made by `Lineup.load`."""

    def __init__(self, floating: SharedBackbone, nf4: SharedBackbone) -> None:
        self._shared = {"base": floating, "adapter": floating, "qvla": nf4}
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
        """Loads what can be loaded; `variant(...).reason` tells in words what could not.

        `precision` is that of base and adapter: fp32, bf16, or auto, which is bf16 on CUDA and fp32
        on the CPU; `nf4_embeddings` are as in `load_backbone`. Only the backbones that the asked
        `variants` answer on are loaded, and without an `nf4_adapter` the NF4 backbone is left
        unloaded until `swap_adapter` brings one. With a `device_lock` captioning goes before
        fine-tunes on the same device (`sharing`). `progress` is called with a sentence before
        each step. Raises BackboneError when the float backbone is needed and cannot be loaded, and
        QvlaError for a name that is not in VARIANTS.
        """
        report = progress or log.info
        transformers_logging.disable_progress_bar()  # `report` tells instead
        device = device_of(device)
        floating = SharedBackbone(
            *(str(model), float_precision(precision, device), device, ("base", "adapter")),
            device_lock=device_lock,
        )
        nf4 = SharedBackbone(
            *(str(model), Precision.NF4, device, ("qvla",)),
            embeddings=nf4_embeddings,
            device_lock=device_lock,
        )
        lineup = cls(floating, nf4)
        title = Path(model).name
        for variant in variants:
            _check(variant, VARIANTS)
        if "base" in variants or ("adapter" in variants and adapter is not None):
            report(f"Loading {title} in {floating.precision.value} on {device}.")
            floating.load()
        lineup._record("base", reason="" if "base" in variants else NOT_ASKED)
        for variant, folder in (("adapter", adapter), ("qvla", nf4_adapter)):
            if variant not in variants:
                lineup._record(variant, reason=NOT_ASKED)
                continue
            if folder is None:
                lineup._record(variant, reason=NO_ADAPTER)
                continue
            shared = lineup.shared(variant)
            if shared.backbone is None:
                report(f"Loading {title} in {shared.precision.value} on {device}.")
            try:
                shared.load()
                report(f"Attaching the adapter {Path(folder).name} to {title}.")
                shared.attach(variant, folder)
                lineup._record(variant, folder=folder)
            except (AdapterError, BackboneError) as error:
                log.warning("%s is not available: %s", TITLES[variant], error)
                lineup._record(variant, reason=str(error))
        ready = ", ".join(one.title for one in lineup.variants() if one.available)
        report(f"Ready: {ready or 'none'}.")
        return lineup

    def variant(self, name: str) -> Variant:
        """Who answers under this name now; raises QvlaError for a name that is not in VARIANTS."""
        _check(name, VARIANTS)
        return self._variants[name]

    def variants(self) -> list[Variant]:
        return [self._variants[name] for name in VARIANTS]

    def shared(self, variant: str) -> SharedBackbone:
        """The backbone on which a variant answers, with its lock."""
        _check(variant, VARIANTS)
        return self._shared[variant]

    def swap_adapter(self, variant: str, folder: str | Path, *, name: str | None = None) -> None:
        """Puts another adapter behind `adapter` or `qvla`, once the generation under way has ended.

        It is shown under `name`, or else its folder's. All or nothing: on AdapterError (or
        BackboneError, where NF4 weights had yet to be loaded) the variant answers as before.
        """
        _check(variant, ("adapter", "qvla"))
        shared = self._shared[variant]
        with shared.lock:
            shared.load()
            shared.attach(variant, folder)
            self._record(variant, folder=name or folder)

    def drop_adapter(self, variant: str) -> None:
        """Leaves `adapter` or `qvla` without one, once the generation under way has ended."""
        _check(variant, ("adapter", "qvla"))
        shared = self._shared[variant]
        with shared.lock:
            shared.detach(variant)
            self._record(variant, reason=NO_ADAPTER)

    def _record(self, name: str, *, folder: str | Path | None = None, reason: str = "") -> None:
        shared = self._shared[name]
        backbone = shared.backbone
        size = 0
        if not reason:
            size = weight_bytes(backbone.model, shared.adapters.get(name))
        self._variants[name] = Variant(
            name=name,
            title=TITLES[name],
            model=Path(shared.model).name,
            adapter=None if folder is None else Path(folder).name,
            precision=shared.precision.value,
            device=shared.device if backbone is None else str(backbone.device),
            weight_bytes=size,
            available=not reason,
            reason=reason,
        )


def device_of(device: str) -> str:
    """The device that `auto` stands for here: CUDA where there is one, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def float_precision(precision: str, device: str) -> Precision:
    """The precision of base and adapter that `auto` stands for on a device; see `Lineup.load`."""
    if precision == "auto":
        return Precision.BF16 if device.startswith("cuda") else Precision.FP32
    allowed = (Precision.FP32.value, Precision.BF16.value)
    if precision not in allowed:
        raise QvlaError(
            f"Base and adapter run in {' or '.join(allowed)}, not in {precision}; "
            "NF4 is what QVLA always runs in."
        )
    return Precision(precision)


def _check(name: str, allowed: Sequence[str]) -> None:
    if name not in allowed:
        raise QvlaError(f"There is no variant {name!r} here: choose one of {', '.join(allowed)}.")
