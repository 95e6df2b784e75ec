"""What is known of every way to fine-tune: an entry of the registry.

Light on purpose: forms and flags read the entries, so PEFT and PyTorch are imported within the
calls that need them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from qvla.errors import QvlaError
from qvla.methods.places import Places

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import TrainerCallback


class TrainingError(QvlaError):
    """The run cannot start or go on; the message says what to mend."""


@dataclass(frozen=True)
class Trained:
    """What is trained in the decoder, in the terms that memory goes by (He et al., arXiv
    2110.04366, section 3).

    `full` is everything; `sequential` something of `width` behind some sublayers (`sites` are
    attention, mlp), with `norms` the norms that come next too; `parallel` something beside some
    projections (`sites` are their names), with `width` numbers between for each token; `prefix`
    keys and values of `width` more tokens; `input` maps of the rank `width` to what is added to the
    decoder's input; `sight` differences of biases in the vision tower, through which gradients then
    flow too. `vision` is the same of the vision tower, where anything else is trained there; of
    `full` it is everything too.

    What is `parallel` may be `joined` from parts anew in each step; keep the projection's output so
    many times (`outputs`), so many numbers for each of its inputs (`per_input`), and so many square
    matrices of them (`squares`); and be multiplied out to whole weights meanwhile (`dense`).
    """

    form: Literal["full", "sequential", "parallel", "prefix", "input", "sight"] = "full"
    width: int = 0
    layers: Collection[int] = ()
    sites: Collection[str] = ()
    norms: bool = False
    joined: bool = False
    outputs: int = 0
    per_input: int = 0
    squares: int = 0
    dense: bool = False
    vision: Trained | None = None


@dataclass(frozen=True)
class AdapterCount:
    """What one adapter trains, counted in parameters; `sites` counts the places it stands at."""

    adapters: int
    norms: int
    sites: int

    @property
    def total(self) -> int:
        return self.adapters + self.norms


class Method(ABC):
    """One way to fine-tune. A `recipe` is here anything that has the method's `fields`."""

    name: ClassVar[str]
    title: ClassVar[str]
    made: ClassVar[str]  # what comes of it, as a sentence begins
    paper: ClassVar[str]
    link: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = ()  # its own ones of a recipe
    learning_rate: ClassVar[float]  # the default
    defaults: ClassVar[Mapping[str, Any]] = {}  # of its fields, where they are not the recipe's
    precision: ClassVar[str | None] = None  # that the float base needs, where it needs one
    peft_type: ClassVar[str | None] = None  # as adapter_config.json has it; None: no adapter
    needs_import: ClassVar[str | None] = None  # a module that makes it known to PEFT
    merges: ClassVar[bool]  # whether an adapter can be merged into its base's weights
    on_nf4: ClassVar[bool]  # whether it works on quantised bases
    no_start: ClassVar[str | None] = None  # why no run can start from one of its adapters
    nf4_reason: ClassVar[str | None] = None  # why it does not, in one sentence
    int8_reason: ClassVar[str | None] = None  # why it does not on INT8, where it does on NF4
    needs_all_gradients: ClassVar[bool] = False  # of what it trains, at every step
    mixes: ClassVar[bool]  # whether a batch may hold rows of several, by `adapter_names`

    @property
    def is_adapter(self) -> bool:
        """Whether it leaves the base as it is and makes a PEFT folder."""
        return self.peft_type is not None

    @abstractmethod
    def config(self, recipe: Any, places: Places) -> PeftConfig | None:
        """The recipe in PEFT's terms, None for what is no adapter; raises QvlaError."""

    @abstractmethod
    def touched(self, model: nn.Module, recipe: Any, places: Places) -> list[str]:
        """Names of the bare model's modules that it wraps or trains; raises QvlaError."""

    @abstractmethod
    def trained(self, recipe: Any, places: Places) -> Trained:
        """What it trains in a model of these places; raises QvlaError."""

    def callbacks(self, checkpoint: Path | None) -> list[TrainerCallback]:
        """What it does in training beside the steps; `checkpoint` is what a run goes on from."""
        return []

    def makes(self, values: Mapping[str, Any]) -> bool:
        """Whether an adapter whose configuration has these values is one of this method."""
        return self.peft_type is not None and values.get("peft_type") == self.peft_type

    def outline(self, model: nn.Module, adapter: PeftConfig) -> PeftModel:
        """A bare model of the meta device with that adapter in it: shapes without memory."""
        import torch
        from peft import get_peft_model

        with torch.device("meta"):
            return get_peft_model(model, adapter)

    def count(self, model: nn.Module) -> AdapterCount:
        """Counts what is trained of a model that has been made ready by this method."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
        sites = sum(isinstance(module, BaseTunerLayer) for module in model.modules())
        return AdapterCount(trained, norms=0, sites=sites)
