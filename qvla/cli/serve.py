"""`qvla serve`: the app, as `python app.py` opens it, with options in place of variables."""

from __future__ import annotations

import argparse
from pathlib import Path

from qvla import proxies
from qvla.captioning.options import add_bank_argument, add_model_arguments, settings_of
from qvla.cli import logs
from qvla.errors import QvlaError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="photos in the RISC layout, for the gallery"
    )
    add_bank_argument(parser)
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Returns when the app is stopped with Ctrl-C."""
    settings = settings_of(options, "host", "port", "data", "bank")
    logs.set_up(settings)
    # Before Gradio is imported, which makes an HTTP client.
    proxies.spare(settings.host)
    if (fault := proxies.fault()) is not None:
        raise QvlaError(fault)
    from qvla.ui.app import serve

    serve(settings)
    return 0
