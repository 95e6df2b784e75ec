"""What several verbs share: the options that name a model, and the line-up loaded from them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qvla.settings import Settings, load_settings

if TYPE_CHECKING:
    from qvla.lineup import Lineup

log = logging.getLogger(__name__)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the model; each left out comes from its environment variable `QVLA_…`."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", help="PaliGemma checkpoint: a hub id or a folder")
    group.add_argument(
        "--adapter", metavar="FOLDER", help="adapter of the float base (default: MODEL/adapter)"
    )
    group.add_argument(
        "--nf4-adapter", metavar="FOLDER", help="adapter of the NF4 base (default: MODEL/qvla)"
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"))
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        help="of base and adapter; auto is bf16 on CUDA and fp32 on the CPU",
    )


def settings_of(options: argparse.Namespace, *more: str) -> Settings:
    """The settings with the given options put over them; raises SettingsError.

    `more` names further settings that the verb has options for.
    """
    names = ("model", "adapter", "nf4_adapter", "device", "precision", *more)
    given = {name: getattr(options, name) for name in names}
    return load_settings(**{name: value for name, value in given.items() if value is not None})


def load_lineup(settings: Settings, variants: Sequence[str]) -> Lineup:
    """The line-up with the weights that these variants need, and no others.

    Raises QvlaError when the base cannot be loaded; for others see `Lineup.variant(...).reason`.
    """
    from qvla.lineup import Lineup

    return Lineup.load(
        settings.model,
        adapter=settings.adapter if "adapter" in variants else None,
        nf4_adapter=settings.nf4_adapter if "qvla" in variants else None,
        precision=settings.precision,
        device=settings.device,
        progress=log.info,
    )
