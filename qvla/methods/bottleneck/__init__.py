"""Houlsby bottleneck adapters as a PEFT method: importing this package registers it with PEFT.

The method is that of Houlsby et al., "Parameter-Efficient Transfer Learning for NLP"
(https://arxiv.org/abs/1902.00751). Import it before an adapter of its kind is loaded; from then on
`peft.get_peft_model(model, BottleneckConfig(...))`, `peft.PeftModel.from_pretrained` and
`generate(adapter_names=["caption", "__base__"])` work as with any other PEFT method.
"""

from __future__ import annotations

from peft.utils import register_peft_method

from qvla.methods.bottleneck.config import ACTIVATIONS, SITES, BottleneckConfig, BottleneckError
from qvla.methods.bottleneck.layer import (
    Bottleneck,
    BottleneckLayer,
    BottleneckLinear,
    BottleneckNorm,
)
from qvla.methods.bottleneck.model import BottleneckModel, count_parameters
from qvla.methods.method import AdapterCount
from qvla.methods.rows import BASE

__all__ = [
    "ACTIVATIONS",
    "BASE",
    "SITES",
    "AdapterCount",
    "Bottleneck",
    "BottleneckConfig",
    "BottleneckError",
    "BottleneckLayer",
    "BottleneckLinear",
    "BottleneckModel",
    "BottleneckNorm",
    "count_parameters",
]

register_peft_method(
    name="bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel, prefix="bottleneck_"
)
