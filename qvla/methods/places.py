"""The places of a model that methods go to: a family tells them, and methods name no path of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stack:
    """The layers of one tower, all alike.

    Attributes:
        title: what sentences call the tower.
        paths: where the layers lie in the bare model; each is `{path}.{index}`. There are several
            of a tower of which the model has more than one, such as an encoder and a decoder of the
            same shape, whose layers of one number go together.
        depth: how many there are whose outputs are used.
        hidden: features of the stream that goes through them.
        attended: features that attention's last projection takes in.
        wide: features between the MLP's projections.
        projections: a layer's linear layers by name, each with the sublayers that it lies in.
        outputs: the projections that the sublayers `attention` and `mlp` end in.
    """

    title: str
    paths: Sequence[str]
    depth: int
    hidden: int
    attended: int
    wide: int
    projections: Mapping[str, Sequence[str]]
    outputs: Mapping[str, str]

    def inputs(self, projection: str) -> int:
        """Features that a projection takes in."""
        last = {self.outputs["attention"]: self.attended, self.outputs["mlp"]: self.wide}
        return last.get(projection, self.hidden)


@dataclass(frozen=True)
class Places:
    """The places of one model: both towers' layers, and the projector's linear layers by path.

    `unused` are paths of modules whose outputs nothing uses: nothing put there would learn.
    """

    language: Stack
    vision: Stack
    projector: Sequence[str]
    unused: Sequence[str] = ()
