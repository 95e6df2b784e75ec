"""The weights below a line-up: each base is held once in each precision, whoever answers."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from qvla.captioning.contenders import Contender, base_identity
from qvla.captioning.graphs import Graphs
from qvla.captioning.shared_backbone import SharedBackbone
from qvla.errors import QvlaError
from qvla.models.backbone import Precision, computing_in, lacks_bf16
from qvla.models.families import family_of
from qvla.models.params import read_model_config


class Bases:
    """Makes backbones when they are first asked for; their weights are loaded by `load` alone."""

    def __init__(
        self,
        device: str,
        *,
        nf4_embeddings: str | None = None,
        device_lock: Path | None = None,
        graphs: str = "auto",
    ) -> None:
        """`nf4_embeddings` are as in `load_backbone`; for the `device_lock` see `sharing`, for
        `graphs` the module of that name: `auto` or `off`.
        """
        self.device = device_of(device)
        self._nf4_embeddings = nf4_embeddings
        self._device_lock = device_lock
        self._graphs = graphs
        self._lock = threading.Lock()
        self._held: dict[tuple[str, Precision], SharedBackbone] = {}

    def of(self, contender: Contender) -> SharedBackbone:
        """The backbone on which a contender answers. Raises QvlaError for its precision."""
        precision = precision_of(contender.precision, self.device)
        key = (base_identity(contender.base), precision)
        with self._lock:
            if key not in self._held:
                self._held[key] = SharedBackbone(
                    contender.base,
                    precision,
                    self.device,
                    embeddings=self._nf4_embeddings if precision is Precision.NF4 else None,
                    device_lock=self._device_lock,
                    graphs=Graphs(self._graphs == "auto" and precision is not Precision.INT8),
                )
            shared = self._held[key]
        if contender.needs_adapter:
            shared.needing[contender.name] = contender.title
        return shared


def device_of(device: str) -> str:
    """The device that `auto` stands for here: CUDA where there is one, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def computing_type(contender: Contender, device: str, nf4_embeddings: str) -> str:
    """What a contender computes in on a device, such as float32, unless that overflows there.

    Raises BackboneError for a base that is not there.
    """
    precision, int8_table = precision_of(contender.precision, device), False
    if precision is Precision.NF4 and nf4_embeddings == "int8":
        int8_table = family_of(read_model_config(contender.base)).holds_int8_table
    found = computing_in(precision, torch.device(device), int8_table=int8_table)
    return str(found).removeprefix("torch.")


def precision_of(precision: str, device: str) -> Precision:
    """The precision that `auto` stands for on a device: bf16 on CUDA and fp32 on the CPU.

    It is fp16 on cards that have no bfloat16, as long as it does not overflow (`overflow`).
    """
    if precision == "auto":
        if not device.startswith("cuda"):
            return Precision.FP32
        return Precision.FP16 if lacks_bf16(device) else Precision.BF16
    try:
        return Precision(precision)
    except ValueError:
        known = ", ".join(one.value for one in Precision)
        raise QvlaError(
            f"There is no precision {precision!r}: use auto or one of {known}."
        ) from None
