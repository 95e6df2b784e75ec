"""What AdaLoRA does in training beside its steps: it moves ranks to where they matter, and keeps
the two matrices of each product orthogonal (Zhang et al., arXiv 2303.10512, sections 3.1 and 3.3).

PEFT has both, but calls neither: the first is left to the loop, the second is added to a loss that
the model itself computes, which it does not here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Shares of the run in which all ranks train before, and none is moved after: the paper's for MNLI
# (8,000 and 50,000 steps of 86,000; appendix E), to round numbers.
WARM_UP, FINAL = 10, 2
SCORES = "adalora_scores.safetensors"  # beside a checkpoint: what the importance of ranks goes by
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class Budget(TrainerCallback):
    """Cuts the ranks from what the run began with to its target, by their importance.

    Checkpoints have all ranks, those that were cut as zeros, so that the optimiser's states fit;
    PEFT would leave them out as soon as its configuration names some. The result has none of them.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self._resumed = checkpoint
        self._ranks: dict[str, list[bool]] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        config = _config(given["model"])
        config.total_step = state.max_steps
        config.tinit = state.max_steps // WARM_UP
        config.tfinal = state.max_steps // FINAL if state.max_steps > FINAL else 0
        if self._resumed is None:
            return
        if state.global_step >= config.total_step - config.tfinal:
            self._ranks = {
                name: (values != 0).view(-1).tolist()
                for name, values in given["model"].get_base_model().named_parameters()
                if ".lora_E." in name
            }
        if (self._resumed / SCORES).is_file():
            allocator: Any = _lora(given["model"]).rankallocator
            places = dict(given["model"].get_base_model().named_parameters())
            for key, tensor in load_file(self._resumed / SCORES).items():
                kind, _, name = key.partition("/")
                getattr(allocator, kind)[name] = tensor.to(places[name].device)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        weight = _config(given["model"]).orth_reg_weight
        for parameter, gradient in _orthogonality(given["model"]):
            if parameter.grad is not None:
                parameter.grad.add_(gradient, alpha=weight)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        config, step = _config(given["model"]), state.global_step + 1
        if config.total_step == 1:  # the first step has no importance to go by
            return
        config.rank_pattern = self._ranks
        _lora(given["model"]).update_and_allocate(step)
        self._ranks, config.rank_pattern = config.rank_pattern, None

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        allocator: Any = _lora(given["model"]).rankallocator
        scores = {
            f"{kind}/{name}": tensor.contiguous()
            for kind in AVERAGES
            for name, tensor in getattr(allocator, kind).items()
        }
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if scores and state.is_world_process_zero and folder.is_dir():
            save_file(scores, folder / SCORES)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        _config(given["model"]).rank_pattern = self._ranks


def _lora(model: PeftModel) -> Any:
    return model.base_model


def _config(model: PeftModel) -> Any:
    return model.peft_config[model.active_adapter]


def _orthogonality(model: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Gradients of the mean of `||P P' - I||` over all matrices, of the side that the ranks are."""
    found = [
        (parameter, ".lora_A." in name)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (".lora_A." in name or ".lora_B." in name)
    ]
    gradients = []
    for parameter, rows in found:
        with torch.no_grad():
            wide = parameter if rows else parameter.T  # (ranks, features)
            apart = wide @ wide.T
            apart.diagonal().sub_(1)
            # of the Frobenius norm: 2 (P P' - I) P over it
            gradient = 2 * apart @ wide / apart.norm().clamp(min=1e-12)
            gradients.append((parameter, (gradient if rows else gradient.T) / len(found)))
    return gradients
