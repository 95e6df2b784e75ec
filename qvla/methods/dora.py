"""DoRA: "DoRA: Weight-Decomposed Low-Rank Adaptation" (Liu et al., 2024), by PEFT's LoRA."""

from __future__ import annotations

from qvla.methods.lora import LoraMethod


class DoraMethod(LoraMethod):
    """LoRA on each weight's direction, and a trained magnitude for each output:
    `W' = m (W + B A) / ||W + B A||`, the norm taken over the inputs of each output.
    """

    name = "dora"
    title = "DoRA"
    made = "A DoRA adapter"
    paper = "DoRA: Weight-Decomposed Low-Rank Adaptation (Liu et al., 2024)"
    link = "https://arxiv.org/abs/2402.09353"
    mixes = False  # the norm is of the whole weight, which rows would have to share
    int8_reason = "PEFT's layers of it do not find the scales of an INT8 weight"
    decomposes = True
    dense = True  # for the norm
    outputs = 2  # the base's and its own, which the magnitude's gradient needs


DORA = DoraMethod()
