"""The same adapter as code: PEFT's configuration of it, put around a base by hand."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import peft

if TYPE_CHECKING:
    from peft import PeftConfig


def code_for(model: str, precision: str, config: PeftConfig | None) -> str:
    """A Python program that loads the base and makes it ready to be trained.

    Of the configuration it gives what differs from PEFT's own defaults.
    """
    load = (
        f"base = load_backbone({_literal(model)}, {_literal(precision)}, for_training=True).model"
    )
    if config is None:
        return (
            f"from qvla.models.backbone import load_backbone\n\n{load}\n"
            "model = base.requires_grad_(True)\n"
        )
    kind = type(config)
    public = getattr(peft, kind.__name__, None) is kind
    names = ["get_peft_model", *([kind.__name__] if public else [])]
    own = [] if public else [f"from {_home(kind)} import {kind.__name__}"]
    imports = [
        f"from peft import {', '.join(sorted(names))}",
        *own,
        "from qvla.models.backbone import load_backbone",
    ]
    settings = "".join(
        f"    {name}={_literal(value)},\n" for name, value in _changed(config).items()
    )
    lines = [
        *imports,
        f"\n{load}",
        f"config = {kind.__name__}(\n{settings})",
        "model = get_peft_model(base, config)",
        "model.print_trainable_parameters()",
    ]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """A value as Python is written; a pattern without doubled backslashes."""
    if isinstance(value, str) and '"' not in value:
        return f'r"{value}"' if "\\" in value else f'"{value}"'
    return repr(value)


def _changed(config: PeftConfig) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(config):
        if not field.init or field.name in ("peft_type", "peft_version"):
            continue
        value, default = getattr(config, field.name), _default(field)
        if isinstance(value, list) and isinstance(default, tuple):
            default = list(default)
        if value != default:
            found[field.name] = sorted(value) if isinstance(value, set) else value
    return found


def _default(field: Any) -> Any:
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default


def _home(kind: type) -> str:
    """The shortest module that offers the class."""
    package = kind.__module__.rpartition(".")[0]
    return package if hasattr(sys.modules.get(package), kind.__name__) else kind.__module__
