"""The places of a model that methods go to: a family tells them, and methods name no path of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stack:
    """The layers of one tower, all alike.

    Attributes:
        title: what sentences call the tower.
        path: where the layers lie in the bare model; each is `{path}.{index}`.
        depth: how many there are.
        hidden: features of the stream that goes through them.
        projections: a layer's linear layers by name, each with the sublayer that it lies in.
        outputs: the projections that the sublayers `attention` and `mlp` end in.
    """

    title: str
    path: str
    depth: int
    hidden: int
    projections: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Places:
    """The places of one model: both towers' layers, and the projector's linear layers by path."""

    language: Stack
    vision: Stack
    projector: Sequence[str]
