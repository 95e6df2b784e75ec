"""Bytes of the vision tower's activations, by the bookkeeping of `activations`, for SigLIP."""

from __future__ import annotations

from typing import Any

from qvla.methods.method import Trained
from qvla.planning.activations import FLOAT, Step


class Tower:
    """What the vision tower keeps when it trains, and uses when it does not."""

    def __init__(self, config: Any, step: Step, trained: Trained | None = None) -> None:
        """`trained` is what trains in the whole model. But for `full` no weight of the tower does:
        what trains is added to its layers' outputs, or goes beside them.
        """
        vision = config.vision_config
        self.step = step
        form = None if trained is None else trained.form
        self.beside = None if form == "full" or trained is None else trained.vision
        self.biases = form != "full"
        self.trains = form in ("full", "sight") or self.beside is not None
        self.hidden = vision.hidden_size
        self.width = vision.intermediate_size
        self.layers = vision.num_hidden_layers
        self.heads = vision.num_attention_heads
        self.patch = vision.num_channels * vision.patch_size**2
        self.pixels = step.rows * vision.num_channels * vision.image_size**2
        self.projected = config.text_config.hidden_size
        self.tokens = step.rows * step.image_tokens

    def inputs(self) -> int:
        """The photos as float32 pixels."""
        return FLOAT * self.pixels

    def features(self) -> int:
        """What the projector hands to the decoder."""
        return self.step.compute * self.tokens * self.projected

    def forward(self) -> int:
        """The most at once without gradients: the MLP between its projections, and the stream."""
        step = self.step
        return self.tokens * (2 * step.compute * self.width + (step.residual + FLOAT) * self.hidden)

    def saved(self, checkpointing: bool) -> int:
        """Kept when the tower trains."""
        step = self.step
        first = min(self.beside.layers, default=self.layers) if self.beside else 0
        if checkpointing:
            kept = self.layers * step.residual * self.tokens * self.hidden
        else:
            kept = (self.layers - first) * self._fixed()
            kept += len(self.beside.layers) * self._beside() if self.beside else 0
        kept += self._norm()
        # what the projector takes in, and the pixels where they are cast
        kept += 0 if self.biases else step.compute * self.tokens * self.hidden
        if step.casts_base:
            pixels = 0 if self.biases else self.pixels + self.hidden * self.patch
            kept += step.compute * (pixels + self.hidden * self.projected)
        return kept

    def recomputed(self) -> int:
        """Kept by one layer."""
        return self._fixed() + (self._beside() if self.beside else 0)

    def _beside(self) -> int:
        """Kept in a layer by what goes beside its projections or behind its sublayers."""
        step, one, hidden, wide = self.step, self.beside, self.hidden, self.width
        assert one is not None
        sizes = {"fc1": (hidden, wide), "fc2": (wide, hidden)}
        kept = 0
        for site in one.sites:
            inputs, outputs = sizes.get(site, (hidden, hidden))
            inner = 2 * one.width if one.form == "sequential" else one.width
            kept += step.compute * self.tokens * (inputs + inner + one.outputs * outputs)
            kept += FLOAT * inputs * (one.per_input + one.squares * inputs)
            kept += step.compute * one.width * (inputs + outputs) if step.compute < FLOAT else 0
        return kept

    def _fixed(self) -> int:
        """Kept in a layer by its own operations."""
        step, hidden, tokens = self.step, self.hidden, self.tokens
        # of the projections, which a difference of biases does not need
        inputs = (
            0 if self.biases else (3 if step.casts_base else 1) * step.compute * tokens * hidden
        )
        # queries, keys, values and output, and the logarithmic sums of the scores
        attention = 4 * step.compute * tokens * hidden + FLOAT * tokens * self.heads
        mlp = step.compute * tokens * (self.width if self.biases else hidden + 2 * self.width)
        weights = 4 * hidden**2 + 2 * hidden * self.width
        casts = step.compute * weights if step.casts_base else 0
        return 2 * self._norm() + inputs + attention + mlp + casts

    def _norm(self) -> int:
        """LayerNorm: its input, and mean and deviation of every token."""
        return self.step.residual * self.tokens * self.hidden + 2 * FLOAT * self.tokens
