from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Models here are too small to gain from a second thread, and threads of several processes that wait
# for each other on the same cores take many times as long. Processes that tests start inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import qvla.ui  # noqa: F401 - before a test imports Gradio: without its stubs that takes less
from qvla.ui.visitors import own_folder


def pytest_collection_finish() -> None:
    """What was imported stays: else every collection of garbage looks through all of it again.

    That is half a second of a core for each base that is loaded in 4 bits, with PyTorch and Gradio.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)  # after the fixtures of a file were taken down
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """So does what a file's tests have left, as libraries import more when they are first used."""
    if nextitem is None or nextitem.path != item.path:
        pytest_collection_finish()


@pytest.fixture(scope="session", autouse=True)
def _uploads() -> None:
    """Each process that tests has a folder of uploads of its own: an app that ends removes what it
    was given, also what an app in another process was given with the same bytes.
    """
    own_folder()


def _build_tiny(folder: Path, **options: Any) -> Path:
    # Not at the top: the process that only hands tests out to others needs no PyTorch, and what
    # libraries say while they are imported there would come after pytest's summary.
    from tests.support.tiny import build_tiny

    return build_tiny(folder, **options)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build_tiny(tmp_path_factory.mktemp("llava"), family="llava")


@pytest.fixture(scope="session", params=["paligemma", "llava"])
def tiny_of_family(request: pytest.FixtureRequest) -> Path:
    """A tiny checkpoint of each family, one after the other."""
    names = {"paligemma": "tiny_checkpoint", "llava": "tiny_llava"}
    return request.getfixturevalue(names[request.param])


@pytest.fixture(scope="session")
def odd_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build_tiny(tmp_path_factory.mktemp("odd"), odd_vision=True)
