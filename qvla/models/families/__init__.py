"""The model families: what differs between them stands in one file each, and nowhere else.

Importing this package is light; a family's file, and Transformers with it, comes with the first
question.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from qvla.models.errors import BackboneError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, ProcessorMixin

    from qvla.models.families.family import Family


@cache
def families() -> tuple[Family, ...]:
    """Every family that is known here."""
    from qvla.models.families.blip import BLIP
    from qvla.models.families.llava import LLAVA
    from qvla.models.families.paligemma import PALIGEMMA
    from qvla.models.families.vilt import VILT

    return (PALIGEMMA, LLAVA, BLIP, VILT)


def family_named(model_type: object, of: str = "The model") -> Family:
    """The family of a `model_type`; BackboneError for one not known here says what it is `of`."""
    for family in families():
        if family.model_type == model_type:
            return family
    known = ", ".join(f"{family.title} ({family.model_type})" for family in families())
    raise BackboneError(
        f"{of} is of a model type that is not known here, {model_type!r}: choose one of {known}."
    )


def family_of(config: object) -> Family:
    """The family of a model's configuration; raises BackboneError for one not known here."""
    return family_named(getattr(config, "model_type", None))


def built_in() -> dict[str, Callable[[], PreTrainedConfig]]:
    """Makers of the configurations that need no file, by the model's hub id."""
    return {name: make for family in families() for name, make in family.built_in.items()}


def family_of_processor(processor: ProcessorMixin) -> Family:
    """The family whose tokeniser and image processor these are; raises BackboneError."""
    for family in families():
        if isinstance(processor, family.processor_class):
            return family
    known = ", ".join(family.title for family in families())
    raise BackboneError(
        f"A {type(processor).__name__} belongs to no model family that is known here: load the "
        f"processor of one that is, {known}."
    )
