"""What several suites ask: the default three over a tiny checkpoint, and each model alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qvla.captioning.graphs import Graphs
from qvla.captioning.lineup import Lineup
from tests.support.alone import Alone, Weights, make_weights


@pytest.fixture(scope="session")
def weights(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return make_weights(tiny_checkpoint, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def alone(weights: Weights) -> dict[str, Alone]:
    return {
        "base": Alone(weights.model),
        "adapter": Alone(weights.model, weights.adapter),
        "other adapter": Alone(weights.model, weights.other_adapter),
        "qvla": Alone(weights.model, weights.nf4_adapter, nf4=True),
        "other qvla": Alone(weights.model, weights.other_nf4_adapter, nf4=True),
    }


@pytest.fixture(scope="session")
def three(weights: Weights) -> Lineup:
    """Loaded once; ask for `lineup`."""
    return Lineup.load(
        weights.model,
        adapter=weights.adapter,
        nf4_adapter=weights.nf4_adapter,
        precision="fp32",
        device="cpu",
    )


@pytest.fixture
def lineup(three: Lineup, weights: Weights) -> Iterator[Lineup]:
    """The default three, with the adapters that they began with, and no step recorded yet."""
    for shared in (three.shared("base"), three.shared("qvla")):
        shared.graphs = Graphs()
    yield three
    for name, folder in (("adapter", weights.adapter), ("qvla", weights.nf4_adapter)):
        if three.variant(name).adapter != folder.name:
            three.swap_adapter(name, folder)
