"""Training against a budget of minutes: schedule, optimiser and checkpoints of the base stages.

How many photos a minute a machine sees is not known beforehand and changes while it is shared, so
the learning rate follows the share of the budget that is used. The minutes used are kept in the
checkpoint, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from qvla.embedded.muon import Muon
from qvla.models import nf4

log = logging.getLogger(__name__)

WARMUP_SHARE = 0.03
SAVE_EVERY_SECONDS = 120
LOOK_EVERY_SECONDS = 600
LOG_EVERY = 50  # steps


def computing_type(device: torch.device) -> torch.dtype:
    """bfloat16 where the device has instructions for it, else float32."""
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = nf4.packs()
    return torch.bfloat16 if has else torch.float32


class BudgetRun:
    """Trains modules through float32 master weights: Muon for matrices, AdamW for the rest, with
    one learning rate.
    """

    def __init__(
        self,
        modules: nn.ModuleDict,
        *,
        minutes: float,
        learning_rate: float,
        weight_decay: float,
        checkpoint: Path,
        seed: int = 0,
    ) -> None:
        self.modules = modules
        self.checkpoint = checkpoint
        self.budget = minutes * 60
        self.learning_rate = learning_rate
        self.used = 0.0
        self.step_number = 0
        self._seed = seed
        self._pairs = [
            (name, parameter, parameter.detach().float().clone().requires_grad_())
            for name, parameter in modules.named_parameters()
            if parameter.requires_grad
        ]
        matrices = [m for n, p, m in self._pairs if p.ndim == 2 and _is_hidden(n)]
        others = [m for n, p, m in self._pairs if not (p.ndim == 2 and _is_hidden(n))]
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                others, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98)
            )
        ]
        if matrices:
            self._optimisers.append(Muon(matrices, lr=learning_rate, weight_decay=weight_decay))
        if checkpoint.is_file():
            self._load()
        self._last_clock = time.monotonic()
        self._last_save = self.used

    @property
    def share(self) -> float:
        """The share of the budget used so far, 0 to 1."""
        return min(1.0, self.used / self.budget)

    @property
    def step_seed(self) -> int:
        """What this step is drawn by. Runs of which one goes on from the other's weights want
        seeds farther apart than they have steps, or the second sees what the first saw.
        """
        return self._seed + self.step_number

    @property
    def finished(self) -> bool:
        return self.used >= self.budget

    def go(
        self,
        name: str,
        losses: Callable[[], Mapping[str, torch.Tensor]],
        look: Callable[[], None] = lambda: None,
    ) -> None:
        """Steps until the budget is used, each down the sum of the losses that `losses` draws.

        Whatever is drawn by torch's generators depends on the seed and the number of the step
        alone, so that a resumed run draws the same. `look` is called now and then, and at the end.
        """
        sums: dict[str, torch.Tensor] = {}
        last_look = self.used
        while not self.finished:
            torch.manual_seed(self.step_seed)
            parts = losses()
            self.step(torch.stack(list(parts.values())).sum())
            for part, loss in parts.items():
                sums[part] = loss.detach() + sums.get(part, 0)
            if self.step_number % LOG_EVERY == 0:
                said = ", ".join(
                    f"{part} {total.item() / LOG_EVERY:.4f}" for part, total in sums.items()
                )
                log.info("%s step %d, %.1f min: %s", name, self.step_number, self.used / 60, said)
                sums.clear()
            if self.used - last_look > LOOK_EVERY_SECONDS or self.finished:
                last_look = self.used
                look()

    def step(self, loss: torch.Tensor) -> None:
        """One optimiser step on this loss; advances the clock and saves now and then."""
        loss.backward()
        rate = self.learning_rate * self._schedule()
        for _, parameter, master in self._pairs:
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_([master for _, _, master in self._pairs], 1.0)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        with torch.no_grad():
            for _, parameter, master in self._pairs:
                parameter.copy_(master)
        self.step_number += 1
        now = time.monotonic()
        self.used += now - self._last_clock
        self._last_clock = now
        if self.used - self._last_save > SAVE_EVERY_SECONDS or self.finished:
            self._save()

    def master_weights(self) -> dict[str, torch.Tensor]:
        """The float32 weights by name, with the modules' buffers left out."""
        return {name: master.detach() for name, _, master in self._pairs}

    def _schedule(self) -> float:
        if self.share < WARMUP_SHARE:
            return self.share / WARMUP_SHARE
        done = (self.share - WARMUP_SHARE) / (1 - WARMUP_SHARE)
        return 0.5 * (1 + math.cos(math.pi * done))

    def _save(self) -> None:
        state = {
            "weights": self.master_weights(),
            "buffers": dict(self.modules.named_buffers()),
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "used": self.used,
            "step_number": self.step_number,
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)
        self._last_save = self.used

    def _load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        with torch.no_grad():
            for name, parameter, master in self._pairs:
                master.copy_(state["weights"][name])
                parameter.copy_(master)
            for name, buffer in self.modules.named_buffers():
                buffer.copy_(state["buffers"][name])
        for optimiser, stored in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)
        self.used, self.step_number = state["used"], state["step_number"]
        log.info("going on at step %d, %.1f minutes used", self.step_number, self.used / 60)


def _is_hidden(name: str) -> bool:
    """Muon is for the matrices between layers, not for embeddings and heads."""
    return ".layers." in name
