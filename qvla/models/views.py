"""Views: further module trees over one model's weights, for adapters that cannot share a tree.

PEFT changes a model by putting its own modules in the places of the model's. Two tuners cannot do
that to one tree, and most cannot tell the rows of a batch apart. A view is a copy of the modules
alone: parameters, buffers and quantisation states are the very same objects, so it costs no weight.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from qvla.models import int8, nf4


def view_of(model: nn.Module) -> nn.Module:
    """A module tree of its own over the weights of a bare model; nothing of the model changes."""
    # `deepcopy` takes for a copy of an object what the memo holds under the object's identity.
    held = [*_parameters(model), *model.buffers()]
    held += [nf4.weight_of(layer).quant_state for _, layer in nf4.layers(model)]
    held += [tensor for _, layer in int8.layers(model) for tensor in int8.held(layer)]
    return copy.deepcopy(model, {id(one): one for one in held})


def own_tensors(view: nn.Module, model: nn.Module) -> list[torch.Tensor]:
    """What the view holds beside the weights of the model: its adapters, each tensor once."""
    shared = {id(tensor) for tensor in (*_parameters(model), *model.buffers())}
    own = {id(tensor): tensor for tensor in (*_parameters(view), *view.buffers())}
    return [tensor for identity, tensor in own.items() if identity not in shared]


def own_bytes(view: nn.Module, model: nn.Module) -> int:
    """Bytes of `own_tensors`; storage that several of them share counts once."""
    sizes: dict[int, int] = {}
    for tensor in own_tensors(view, model):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = max(tensor.nbytes, sizes.get(storage.data_ptr(), 0))
    return sum(sizes.values())


def give_own(view: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Gives the view copies of its own of these weights, wherever in it they stand (tied ones)."""
    copies = {
        id(parameter): nn.Parameter(parameter.detach().clone(), requires_grad=False)
        for parameter in parameters
    }
    for module in view.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in copies:
                module._parameters[name] = copies[id(parameter)]


def _parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for _, parameter in model.named_parameters(remove_duplicate=False))
