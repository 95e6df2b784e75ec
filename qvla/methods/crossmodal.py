"""Cross-modal adapter: gated low-rank maps between a photo and the prompt, where the two meet.

At the decoder's input stand a row's projected image features v_i and the embeddings t_j of the text
that the photo attends to. With means v and t over a row,

    t_j + tanh(g) B A v    and    v_i + tanh(g') B' A' t,    A, A': (r, D),    B, B': (D, r).

Both gates start at zero, as in Flamingo (https://arxiv.org/abs/2204.14198, section 2.2), so
training starts from the base's own answers, and the maps at random, so that the gates learn.

The seed lists a `CrossModalAdapter` that adds a map of each text embedding to an image feature,
which needs as many of the one as of the other, hence the means here; and that has one gate,
sigmoid(g) one way and the rest the other, which is open by half at the start, hence two here.

What the photo attends to is read from the attention mask: in PaliGemma the prompt. An answer is
outside: its words get nothing from the maps but what they attend to in photo and prompt, the same
in training as word by word from a cache. Importing this module registers the method with PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft.config import PeftConfig
from peft.utils import register_peft_method
from torch import nn
from torch.nn.functional import linear

from qvla.methods import tuner

CROSSMODAL = tuner.peft_type_named("CROSSMODAL")
WAYS = ("to_text", "to_image")


@dataclass
class CrossModalConfig(PeftConfig):
    """`r` is the rank of each of the two maps; raises TunerError for one below 1."""

    r: int = field(default=16, metadata={"help": "Rank of each of the two maps."})

    target_modules: ClassVar[None] = None  # PEFT reads this of every method

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = CROSSMODAL
        tuner.checked_count("The rank", self.r, tuner.TunerError)


class Map(nn.Module):
    """m -> tanh(gate) B A m, in both ways between means (B, D)."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, size) * size**-0.5)
        self.up = nn.Parameter(torch.randn(size, rank) * rank**-0.5)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, mean: torch.Tensor) -> torch.Tensor:  # (B, D) -> (B, D)
        return self.gate.tanh() * linear(linear(mean, self.down), self.up)


class CrossModalLayer(tuner.OwnLayer):
    """The first decoder layer, whose input is changed; a hook tells which tokens are a photo's."""

    adapter_layer_names = tuple(f"crossmodal_{way}" for way in WAYS)

    def __init__(self, base_layer: nn.Module, embedding: Any, image_token: int) -> None:
        super().__init__(base_layer)
        self.size: int = embedding.weight.shape[1]
        self.image_token = image_token
        self.photo: torch.Tensor | None = None  # (B, T) bool, from the embedding to this layer
        self.hook = embedding.register_forward_pre_hook(self._note)
        for table in self.adapter_layer_names:
            setattr(self, table, nn.ModuleDict())

    def update_layer(self, adapter_name: str, config: CrossModalConfig) -> None:
        for table in self.adapter_layer_names:
            getattr(self, table)[adapter_name] = Map(self.size, config.r)
        self._ready(adapter_name, config)

    def _note(self, embedding: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        self.photo = given[0] == self.image_token

    def forward(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        photo, self.photo = self.photo, None
        names = self.answering()
        # A token that follows others is no photo, and a recorded step cannot ask.
        if names and photo is not None and photo.shape[1] > 1 and photo.any():
            base: Any = self.get_base_layer()
            text = _attended(photo, attention_mask, base.self_attn.is_causal) & ~photo
            means = [_mean(hidden, of)[:, None] for of in (photo, text)]
            for way, mean, onto in zip(WAYS, means, (text, photo), strict=True):
                maps = getattr(self, f"crossmodal_{way}")
                for name in names:
                    hidden = hidden + (onto[..., None] * maps[name](mean)).to(hidden.dtype)
        return self.base_layer(hidden, attention_mask=attention_mask, **kwargs)


class CrossModalModel(tuner.OwnTuner):
    """Puts the maps where a vision-language model hands photo and prompt to its decoder."""

    prefix = "crossmodal_"
    tuner_layer_cls = CrossModalLayer
    merge_refusal = (
        "A cross-modal adapter cannot be merged, because what it adds depends on the photo and the "
        "prompt; keep it loaded, or take it off with unload()."
    )

    def targets(self, model: nn.Module, config: CrossModalConfig) -> Iterator[str]:
        path, _ = tuner.decoder_of(model, self.fault)
        bare: Any = model
        self._photos: Any = bare.get_input_embeddings(), bare.config.image_token_id
        yield f"{path}.layers.0"

    def layer_for(self, target: nn.Module, name: str) -> CrossModalLayer:
        return CrossModalLayer(target, *self._photos)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        layers = [module for module in self.modules() if isinstance(module, CrossModalLayer)]
        bare = super()._unload_and_optionally_merge(*args, **kwargs)
        for layer in layers:
            layer.hook.remove()
        return bare


def _attended(photo: torch.Tensor, mask: torch.Tensor | None, causal: bool) -> torch.Tensor:
    """Which positions (B, T) the last token of each row's photo attends to."""
    places = torch.arange(photo.shape[1], device=photo.device)
    last = (photo * places).amax(1)  # (B,)
    if mask is None:
        return places <= last[:, None] if causal else torch.ones_like(photo)
    rows = torch.arange(len(photo), device=photo.device)
    seen = mask.expand(len(photo), -1, -1, -1)[rows, 0, last]  # (B, T)
    seen = seen[:, -photo.shape[1] :]  # without what came before, from a cache
    return seen if seen.dtype == torch.bool else seen == 0


def _mean(hidden: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """(B, T, D) over the positions (B, T), in float32; zero where there is none."""
    chosen = where.float()[..., None]
    return (hidden.float() * chosen).sum(1) / chosen.sum(1).clamp(min=1)


register_peft_method(
    name="crossmodal", config_cls=CrossModalConfig, model_cls=CrossModalModel, prefix="crossmodal_"
)
