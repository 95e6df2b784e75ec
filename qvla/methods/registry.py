"""Every way to fine-tune, by name. A method times a precision of its base is a kind of recipe.

Everything that has to know of methods reads the entries here; nothing else asks which one it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from qvla.methods.adalora import ADALORA
from qvla.methods.bitfit_entry import BITFIT
from qvla.methods.boft import BOFT
from qvla.methods.bottleneck_entry import BOTTLENECK
from qvla.methods.crossmodal_entry import CROSSMODAL
from qvla.methods.dora import DORA
from qvla.methods.full import FULL
from qvla.methods.ia3 import IA3
from qvla.methods.lora import LORA
from qvla.methods.method import Method, TrainingError
from qvla.methods.multitask_entry import MULTITASK
from qvla.methods.oft import OFT
from qvla.methods.prefix_entry import PREFIX
from qvla.methods.vera import VERA

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        BOTTLENECK,
        LORA,
        DORA,
        ADALORA,
        VERA,
        OFT,
        BOFT,
        IA3,
        PREFIX,
        BITFIT,
        MULTITASK,
        CROSSMODAL,
        FULL,
    )
}
FIELDS = frozenset(field for method in METHODS.values() for field in method.fields)


@dataclass(frozen=True)
class Kind:
    """A kind of recipe: the name that asks for it, its method, and how its base is held."""

    name: str
    method: Method
    quantised: bool = False  # to NF4

    @property
    def made(self) -> str:
        """What comes of it, as a sentence begins."""
        if not self.method.is_adapter:
            return self.method.made
        base = "trained on a frozen base in 4-bit NF4" if self.quantised else "on a frozen base"
        return f"{self.method.made} {base}"


# Names that are older than the scheme: a method's own on a float base, behind a q on an NF4 one.
OLDER = {"bottleneck": ("adapter", "qvla")}


def _kinds(method: Method) -> list[Kind]:
    plain, quantised = OLDER.get(method.name, (method.name, f"q{method.name}"))
    kinds = [Kind(plain, method)]
    return [*kinds, Kind(quantised, method, quantised=True)] if method.on_nf4 else kinds


KINDS: Mapping[str, Kind] = {
    kind.name: kind for method in METHODS.values() for kind in _kinds(method)
}


def adapter_method(name: str) -> Method:
    """The method of that name, which makes adapters; raises TrainingError."""
    adapters = [method.name for method in METHODS.values() if method.is_adapter]
    if name not in adapters:
        raise TrainingError(
            f"There is no method {name!r} that makes adapters: choose one of {', '.join(adapters)}."
        )
    return METHODS[name]


def make_known() -> None:
    """Makes the methods that are ours known to PEFT, as it must be before it reads an adapter."""
    for method in METHODS.values():
        if method.needs_import is not None:
            import_module(method.needs_import)


def makes_model(name: str) -> bool:
    """Whether a kind of recipe makes a model of its own; one that is not known here does not."""
    return name in KINDS and not KINDS[name].method.is_adapter


def kinds_with(field: str) -> tuple[str, ...]:
    """Names of the kinds whose method has this field of a recipe; none for what all have."""
    return tuple(kind.name for kind in KINDS.values() if field in kind.method.fields)


def method_of(values: Mapping[str, Any]) -> Method | None:
    """The entry of an adapter by what its adapter_config.json says; None where there is none here.

    `peft_type` alone does not tell: DoRA is LoRA to PEFT.
    """
    return next((one for one in METHODS.values() if one.makes(values)), None)


def refusal_on_nf4(name: str) -> str | None:
    """Why a name is no kind of recipe that would be its method on NF4; None for other names."""
    method = METHODS.get(name.removeprefix("q"))
    if not name.startswith("q") or method is None or method.on_nf4:
        return None
    return f"{method.title} does not work on an NF4 base: {method.nf4_reason}. Use {method.name}."


def methods_in_words() -> str:
    """Which kinds there are, for the help of a flag and of a form."""
    adapters = [kind for kind in KINDS.values() if kind.method.is_adapter]
    of_float = ", ".join(kind.name for kind in adapters if not kind.quantised)
    of_nf4 = ", ".join(kind.name for kind in adapters if kind.quantised)
    whole = ", ".join(kind.name for kind in KINDS.values() if not kind.method.is_adapter)
    return (
        f"{of_float}: on a frozen float base; {of_nf4}: the same on a frozen NF4 base; "
        f"{whole}: all weights of the base"
    )
