"""Prefix tuning: "Prefix-Tuning: Optimizing Continuous Prompts for Generation" (Li and Liang,
2021).

The registry's entry, apart from `qvla.methods.prefix` itself, whose import brings PEFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qvla.methods.method import Method, Trained
from qvla.methods.placement import DecoderFields, decoder_layers
from qvla.methods.places import Places

if TYPE_CHECKING:
    from torch import nn

    from qvla.methods.prefix import PrefixConfig


class PrefixFields(DecoderFields, Protocol):
    """What a recipe says of it."""

    virtual_tokens: int


class PrefixMethod(Method):
    """Keys and values of no token, before those of the sequence in each layer of the decoder."""

    name = "prefix"
    title = "Prefix tuning"
    made = "A prefix"
    paper = "Prefix-Tuning: Optimizing Continuous Prompts for Generation (Li and Liang, 2021)"
    link = "https://arxiv.org/abs/2101.00190"
    fields = (*DecoderFields.__annotations__, *PrefixFields.__annotations__)
    # P-Tuning v2 (arXiv 2110.07602), which trains a prefix itself, takes 5e-3 to 2e-2, and 1e-2 for
    # 20 tokens, the default here (run_script/run_rte_bert.sh of github.com/THUDM/P-tuning-v2).
    learning_rate = 1e-2
    peft_type = "KV_PREFIX"
    needs_import = "qvla.methods.prefix"
    merges = False  # it is attended to, and stands in no weight
    on_nf4 = True
    mixes = False  # every row attends to it

    def config(self, recipe: PrefixFields, places: Places) -> PrefixConfig:
        from qvla.methods.prefix import PrefixConfig

        every = recipe.layers is None and recipe.placement == "all"
        layers = None if every else decoder_layers(recipe, places)
        return PrefixConfig(num_virtual_tokens=recipe.virtual_tokens, layers=layers)

    def touched(self, model: nn.Module, recipe: PrefixFields, places: Places) -> list[str]:
        from qvla.methods.prefix import attentions

        return list(attentions(model, self.config(recipe, places)))

    def trained(self, recipe: PrefixFields, places: Places) -> Trained:
        layers = decoder_layers(recipe, places)
        return Trained("prefix", width=recipe.virtual_tokens, layers=layers)


PREFIX = PrefixMethod()
