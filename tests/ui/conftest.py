"""The app of a module's own `settings`, its weights loaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qvla.captioning.loader import LineupLoader
from qvla.settings import Settings
from tests.support.serving import served
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def loader(settings: Settings) -> LineupLoader:
    loader = LineupLoader.of(settings).start()
    assert loader.wait(PATIENCE) is not None
    return loader


@pytest.fixture(scope="module")
def address(settings: Settings, loader: LineupLoader) -> Iterator[str]:
    with served(settings, loader) as address:
        yield address
