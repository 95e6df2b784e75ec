from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.colours import write_colours


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("risc"))
