"""What several verbs share: options of model and decoding, and what is made from them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qvla.captioning.bank import bank_of
from qvla.captioning.contenders import contenders_of
from qvla.settings import Settings, load_settings

if TYPE_CHECKING:
    from qvla.captioning.decoding import Decoding
    from qvla.captioning.lineup import Lineup

log = logging.getLogger(__name__)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the model; each left out comes from its environment variable `QVLA_…`."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", help="PaliGemma or LLaVA checkpoint: a hub id or a folder")
    group.add_argument(
        "--adapter", metavar="FOLDER", help="adapter of the float base (default: MODEL/adapter)"
    )
    group.add_argument(
        "--nf4-adapter", metavar="FOLDER", help="adapter of the NF4 base (default: MODEL/qvla)"
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"))
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
        help="of base and adapter; auto is bf16 on CUDA, fp16 on cards without it, and fp32 on the "
        "CPU",
    )
    group.add_argument(
        "--lineup",
        type=Path,
        metavar="FILE",
        help="YAML file with other contenders than base, adapter and qvla",
    )


def add_bank_argument(parser: argparse.ArgumentParser) -> None:
    """Of the verbs that take the bank's tasks as contenders."""
    parser.add_argument(
        "--bank",
        type=Path,
        metavar="DIR",
        help="folder of adapters, any of which may be named as a variant; loaded when it is",
    )


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `qvla.captioning.decoding.Decoding`."""
    group = parser.add_argument_group("decoding")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="at most (default 40)")
    group.add_argument("--num-beams", type=int, metavar="N", help="beam search (default 1: none)")
    group.add_argument("--temperature", type=float, help="above 0 samples (default 0: greedy)")
    group.add_argument("--top-p", type=float, metavar="P", help="share to sample from (default 1)")
    group.add_argument("--seed", type=int, help="makes sampling repeatable")


def decoding_of(options: argparse.Namespace) -> Decoding:
    """The decoding as the options say, the rest by default; raises QvlaError for bad values."""
    from qvla.captioning.decoding import Decoding

    names = ("max_new_tokens", "num_beams", "temperature", "top_p", "seed")
    given = {name: getattr(options, name) for name in names}
    return Decoding(**{name: value for name, value in given.items() if value is not None})


def positive(text: str) -> int:
    """A whole number of at least 1, as argparse wants its types."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def settings_of(options: argparse.Namespace, *more: str) -> Settings:
    """The settings with the given options put over them; raises SettingsError.

    `more` names further settings that the verb has options for.
    """
    names = ("model", "adapter", "nf4_adapter", "device", "precision", "lineup", *more)
    given = {name: getattr(options, name) for name in names}
    return load_settings(**{name: value for name, value in given.items() if value is not None})


def model_arguments(settings: Settings) -> list[str]:
    """The options with which a `qvla` command of its own has the model of these settings."""
    given = {
        "--model": settings.model,
        "--adapter": settings.adapter,
        "--nf4-adapter": settings.nf4_adapter,
        "--device": settings.device,
        "--precision": settings.precision,
        "--lineup": settings.lineup,
    }
    chosen = {name: str(value) for name, value in given.items() if value is not None}
    return [word for option in chosen.items() for word in option]


def load_lineup(settings: Settings, variants: Sequence[str]) -> Lineup:
    """The line-up with the weights that these variants need, and no others.

    Raises QvlaError when a float backbone that they need cannot be loaded; for whatever else is
    not there see `Lineup.variant(...).reason`.
    """
    from qvla.captioning.lineup import Lineup

    return Lineup.of(
        contenders_of(settings),
        device=settings.device,
        nf4_embeddings=settings.nf4_embeddings,
        graphs=settings.graphs,
        bank=bank_of(settings),
        variants=variants,
        progress=log.info,
    )
