"""Prefix tuning: "Prefix-Tuning: Optimizing Continuous Prompts for Generation" (Li and Liang, 2021,
https://arxiv.org/abs/2101.00190), as a PEFT method. Importing this module registers it with PEFT.

In each decoder layer P trainable keys K' and values V' stand before those of the sequence, and
every position attends to all of them, whatever it may see of the others:

    attention(Q, [K'; K], [V'; V]),    K', V': (key/value heads, P, size of a head)

Nothing is added to the sequence itself, so positions, masks, caches and beams stay the base's own.
K' has no place in the sequence and is not rotated, as in the paper and in PEFT. The paper's network
that makes the prefix from a smaller one in training is left out, as by P-Tuning v2
(https://arxiv.org/abs/2110.07602, section 3.3) and by PEFT's default.

PEFT's own `PrefixTuning` hands the prefix over as a cache that was filled before, and leaves out
`token_type_ids`. PaliGemma then takes photo and prompt for more of an answer: they are attended to
from left to right alone, which is another model than the one that was trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft.config import PeftConfig
from peft.utils import register_peft_method
from torch import nn
from torch.nn.functional import pad
from transformers import Cache

from qvla.methods.tuner import (
    OwnLayer,
    OwnTuner,
    TunerError,
    checked_count,
    checked_layers,
    checked_spread,
    chosen_layers,
    decoder_of,
    peft_type_named,
)

KV_PREFIX = peft_type_named("KV_PREFIX")
ATTENTION = "self_attn"  # of a decoder layer


@dataclass
class PrefixConfig(PeftConfig):
    """Args:
        num_virtual_tokens: P, the keys and values that each layer has more of.
        layers: indices of the decoder layers to adapt; None means all of them.
        init_std: standard deviation of the initial keys and values.

    Raises:
        TunerError: a value outside what is said above.
    """

    num_virtual_tokens: int = field(default=20, metadata={"help": "Keys and values of a layer."})
    layers: list[int] | None = field(
        default=None, metadata={"help": "Decoder layers to adapt; None means all."}
    )
    init_std: float = field(
        default=0.02, metadata={"help": "Standard deviation of the initial keys and values."}
    )

    target_modules: ClassVar[None] = None  # PEFT reads this of every method

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = KV_PREFIX
        checked_count("The number of virtual tokens", self.num_virtual_tokens, TunerError)
        self.layers = checked_layers(self.layers, TunerError)
        checked_spread(self.init_std, TunerError)


class Lengthened:
    """What a layer's attention takes for its cache: the real one, with the prefix before it."""

    def __init__(self, cache: Cache | None, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._cache, self._keys, self._values = cache, keys, values

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New keys and values (B, H, T, D) into the cache; all there are, (B, H, P + T', D)."""
        if self._cache is not None:
            keys, values = self._cache.update(keys, values, *args, **kwargs)
        return _before(self._keys, keys), _before(self._values, values)


class PrefixAttention(OwnLayer):
    """A decoder layer's attention, with a prefix for each adapter; several active ones add up."""

    adapter_layer_names = ("prefix_keys", "prefix_values")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.prefix_keys, self.prefix_values = nn.ParameterDict(), nn.ParameterDict()

    def update_layer(self, adapter_name: str, config: PrefixConfig) -> None:
        attention: Any = self.get_base_layer()
        heads, size = attention.config.num_key_value_heads, attention.head_dim
        for table in (self.prefix_keys, self.prefix_values):
            start = config.init_std * torch.randn(heads, config.num_virtual_tokens, size)
            table[adapter_name] = nn.Parameter(start)
        self._ready(adapter_name, config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Any:
        if names := self.answering():
            keys = torch.cat([self.prefix_keys[name] for name in names], dim=1)
            values = torch.cat([self.prefix_values[name] for name in names], dim=1)
            attention_mask = self._mask(
                attention_mask, hidden_states.shape[1], keys.shape[1], past_key_values
            )
            past_key_values = Lengthened(past_key_values, keys, values)  # type: ignore[assignment]
        return self.base_layer(
            hidden_states=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )

    def _mask(
        self, mask: torch.Tensor | None, queries: int, prefix: int, cache: Cache | None
    ) -> torch.Tensor | None:
        """The mask (B, 1, T, T') with the prefix in everybody's sight, (B, 1, T, P + T').

        Without one everything is attended to, but where the attention is causal by itself: SDPA
        would count from the prefix then.
        """
        attention: Any = self.get_base_layer()
        if mask is not None:
            return pad(mask, (prefix, 0), value=mask.dtype == torch.bool)
        if queries == 1 or not attention.is_causal:
            return None
        past = 0 if cache is None else cache.get_seq_length(attention.layer_idx)
        seen = torch.ones(queries, prefix + past + queries, dtype=torch.bool)
        return seen.tril(prefix + past)[None, None].to(attention.k_proj.weight.device)


class PrefixModel(OwnTuner):
    """Puts prefixes into the language decoder of a vision-language model."""

    prefix = "prefix_"
    tuner_layer_cls = PrefixAttention
    merge_refusal = (
        "A prefix cannot be merged into the base's weights, because it is attended to and changes "
        "none of them; keep it loaded, or take it off with unload()."
    )

    def targets(self, model: nn.Module, config: PrefixConfig) -> Iterator[str]:
        return attentions(model, config)


def attentions(model: nn.Module, config: PrefixConfig) -> Iterator[str]:
    """Names of the decoder layers' attentions that get a prefix; raises TunerError."""
    path, layers = decoder_of(model, TunerError)
    for index in chosen_layers(layers, config.layers, TunerError):
        yield f"{path}.layers.{index}.{ATTENTION}"


def _before(prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """(H, P, D) before each row of (B, H, T, D)."""
    rows = prefix.to(states.dtype).expand(len(states), -1, -1, -1)
    return torch.cat([rows, states], dim=2)


register_peft_method(
    name="kv_prefix", config_cls=PrefixConfig, model_cls=PrefixModel, prefix="prefix_"
)
