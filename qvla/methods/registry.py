"""Every way to fine-tune, by name. A method times a precision of its base is a kind of recipe.

Everything that has to know of methods reads the entries here; nothing else asks which one it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from qvla.methods.bitfit_entry import BITFIT
from qvla.methods.bottleneck_entry import BOTTLENECK
from qvla.methods.crossmodal_entry import CROSSMODAL
from qvla.methods.full import FULL
from qvla.methods.lora import LORA
from qvla.methods.method import Method, TrainingError
from qvla.methods.multitask_entry import MULTITASK
from qvla.methods.prefix_entry import PREFIX

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (BOTTLENECK, LORA, PREFIX, BITFIT, MULTITASK, CROSSMODAL, FULL)
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


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("adapter", BOTTLENECK),
        Kind("qvla", BOTTLENECK, quantised=True),
        Kind("lora", LORA),
        Kind("qlora", LORA, quantised=True),  # Dettmers et al., arXiv 2305.14314
        Kind("prefix", PREFIX),
        Kind("qprefix", PREFIX, quantised=True),
        Kind("bitfit", BITFIT),
        Kind("qbitfit", BITFIT, quantised=True),
        Kind("multitask", MULTITASK),
        Kind("qmultitask", MULTITASK, quantised=True),
        Kind("crossmodal", CROSSMODAL),
        Kind("qcrossmodal", CROSSMODAL, quantised=True),
        Kind("full", FULL),
    )
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


def method_of(peft_type: str) -> Method | None:
    """The entry of an adapter by the `peft_type` in its file; None where there is none here."""
    return next((one for one in METHODS.values() if one.peft_type == peft_type), None)


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
