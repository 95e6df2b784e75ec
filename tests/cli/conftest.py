"""What tests of the command line share: a command run in this process, and its streams."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qvla.cli import main as cli
from tests.support.alone import Weights, make_weights, photos

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command line in this process: exit code, standard output, standard error."""
    for name in [name for name in os.environ if name.startswith("QVLA_")]:
        monkeypatch.delenv(name)

    def command(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's own
            code = stop.code
        output, errors = capsys.readouterr()
        return code, output, errors

    yield command
    own = logging.getLogger("qvla")
    own.handlers[:] = []
    own.propagate = True
    own.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def weights(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return make_weights(tiny_checkpoint, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    paths = [str(folder / f"{number} of 3.png") for number in range(1, 4)]
    for path, photo in zip(paths, photos(3), strict=True):
        photo.save(path)
    return paths
