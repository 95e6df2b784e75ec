"""Captions that come as far as a test lets them, so that something else can come in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from qvla.captioning.lineup import Lineup
from tests.support.waiting import PATIENCE


def module_trees(lineup: Lineup) -> set[nn.Module]:
    """Every model of a line-up; several may be over the same weights."""
    shared = [lineup.shared(one.name) for one in lineup.variants() if one.available]
    return {tree for one in shared for tree in (one.backbone.model, *(v.model for v in one.views))}


@contextmanager
def held(lineup: Lineup, steps: int) -> Iterator[threading.Event]:
    """Each model makes so many decoding steps, and goes on only when the event is set."""
    go_on = threading.Event()
    heads = {tree.get_output_embeddings() for tree in module_trees(lineup)}

    def hook() -> object:
        done = 0

        def wait(*_: object) -> None:
            nonlocal done
            done += 1
            if done > steps:
                go_on.wait(PATIENCE)

        return wait

    hooks = [head.register_forward_hook(hook()) for head in heads]
    try:
        yield go_on
    finally:
        go_on.set()
        for one in hooks:
            one.remove()
