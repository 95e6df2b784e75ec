"""Multi-task LoRA: what tasks have in common is learnt by one half of a LoRA (Hu et al., 2021,
https://arxiv.org/abs/2106.09685), what is a task's own by another, chosen a row at a time.

Beside a frozen projection W, a row of the task t gets

    y = W x + (alpha / 2r) (B A x + B_t A_t x),    A, A_t: (r, inputs),    B, B_t: (outputs, r).

Side by side, the halves are a LoRA of rank 2r. One task alone trains as much as that, and every
further task half as much again. B and every B_t start at zero: the base's own answers.

The seed lists a `MultiTaskAdapter` that calls its two halves without the frozen weights that they
ask for, and one behind the other. Here they are added to one frozen projection, as LoRA's are.

`forward(adapter_names=["default/vqa", "default", "__base__"])` names the task of each row, in
training too. A row without one is of the configuration's `task`, by default the first. Runs and
captioning name each row by its prompt, unless the configuration has a `task`. Photos have no
prompts: what stands in the vision tower answers as rows without a name. Importing this module
registers the method with PEFT.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import register_peft_method
from torch import nn
from torch.nn.functional import dropout, linear

from qvla.methods.rows import BASE, RowLayer, RowTuner, put, take
from qvla.methods.tuner import TunerError, checked_count, peft_type_named, shortened

MULTITASK = peft_type_named("MULTITASK")
MOST_TASKS = 64


@dataclass
class MultiTaskConfig(PeftConfig):
    """Args:
        r: rank of each half.
        lora_alpha: what the halves add is scaled by this over their rank together, 2 r.
        dropout: probability of dropping an element of the halves' input in training.
        target_modules: projections to go beside, by a pattern or by names, as LoRA takes them.
        tasks: names of the tasks.
        task: the one of all rows that do not name theirs, whatever their prompt; None means that of
            the prompt, or the first where the prompt's is none of the tasks.

    Raises:
        TunerError: a value outside what is said above.
    """

    r: int = field(default=8, metadata={"help": "Rank of each half."})
    lora_alpha: float = field(default=32.0, metadata={"help": "Scale times both ranks."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the input."})
    target_modules: str | list[str] | None = field(default=None, metadata={"help": "As of LoRA."})
    exclude_modules: str | list[str] | None = field(default=None, metadata={"help": "As of LoRA."})
    tasks: list[str] = field(default_factory=lambda: ["caption"], metadata={"help": "Their names."})
    task: str | None = field(default=None, metadata={"help": "The default; None means the first."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = MULTITASK
        checked_count("The rank of each half", self.r, TunerError)
        names = self.tasks if isinstance(self.tasks, list) else []
        good = all(isinstance(name, str) and name and "/" not in name for name in names)
        if not (good and len(set(names)) == len(names) and 0 < len(names) <= MOST_TASKS):
            raise TunerError(
                f"Tasks must be 1 to {MOST_TASKS} different names without a /, not "
                f"{shortened(self.tasks)}."
            )
        if self.task is not None and self.task not in names:
            raise TunerError(
                f"There is no task {shortened(self.task)}: the tasks are {', '.join(names)}."
            )
        if not 0 <= self.dropout < 1:
            raise TunerError(f"Dropout must be at least 0 and less than 1, not {self.dropout}.")


class MultiTaskLinear(RowLayer):
    """A projection with the halves of each adapter; those of its tasks are one tensor, by task."""

    adapter_layer_names = ("multitask_a", "multitask_b", "multitask_task_a", "multitask_task_b")
    other_param_names = ("configs",)  # which go with an adapter that is deleted

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.configs: dict[str, MultiTaskConfig] = {}
        for table in self.adapter_layer_names:
            setattr(self, table, nn.ParameterDict())

    def update_layer(self, adapter_name: str, config: MultiTaskConfig) -> None:
        projection: Any = self.get_base_layer()
        down, up = (config.r, projection.in_features), (projection.out_features, config.r)
        tasks = len(config.tasks)
        shapes = (down, up, (tasks, *down), (tasks, *up))
        for name, shape in zip(self.adapter_layer_names, shapes, strict=True):
            start = torch.zeros(shape)
            if name.endswith("_a"):
                nn.init.uniform_(start, -(down[1] ** -0.5), down[1] ** -0.5)  # PEFT's for LoRA
            getattr(self, name)[adapter_name] = nn.Parameter(start)
        self.configs[adapter_name] = config
        self._ready(adapter_name, config)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y = self.base_layer(x, *args, **kwargs)  # (B, T, outputs)
        for row_name, rows in self.selected(y):
            name, _, task = row_name.partition("/")
            if name in self.configs:
                added = self._added(take(x, rows), name, task)
                y = put(y, rows, (take(y, rows) + added).to(y.dtype))
        return y

    def _added(self, x: torch.Tensor, name: str, task: str) -> torch.Tensor:
        config = self.configs[name]
        number = config.tasks.index(task or config.task or config.tasks[0])
        a, b, task_a, task_b = (getattr(self, table)[name] for table in self.adapter_layer_names)
        down, up = torch.cat([a, task_a[number]]), torch.cat([b, task_b[number]], dim=1)
        x = dropout(x.to(a.dtype), config.dropout, self.training)
        return (config.lora_alpha / (2 * config.r)) * linear(linear(x, down), up)


class MultiTaskModel(RowTuner):
    """Puts a shared half and one a task beside projections; PEFT's patterns say which."""

    prefix = "multitask_"
    tuner_layer_cls = MultiTaskLinear
    trains_mixed = True
    merge_refusal = (
        "A multi-task adapter cannot be merged, because each of its tasks has weights of its own; "
        "keep it loaded, or take it off with unload()."
    )

    def targets(self, model: nn.Module, config: MultiTaskConfig) -> list[str]:
        chosen = [
            key for key, _ in model.named_modules() if check_target_module_exists(config, key)
        ]
        for key in chosen:
            if not isinstance(model.get_submodule(key), nn.Linear | MultiTaskLinear):
                raise self.fault(f"{key} is no projection: name projections, such as q_proj.")
        return chosen

    def row_name(self, adapter: str, task: str) -> str:
        config: Any = self.peft_config.get(adapter)
        chosen = config is not None and config.task is None and task in config.tasks
        return f"{adapter}/{task}" if chosen else adapter

    def row_names(self) -> list[str]:
        configs: dict[str, Any] = self.peft_config
        tasks = [f"{name}/{task}" for name, config in configs.items() for task in config.tasks]
        return [*configs, *tasks, BASE]


register_peft_method(
    name="multitask", config_cls=MultiTaskConfig, model_cls=MultiTaskModel, prefix="multitask_"
)
