"""The recipe of one fine-tune run: every knob, its default and its command-line flag.

Defaults are the QVLA report's recipe (one epoch, batches of 4, AdamW at 5e-4 with 2 warm-up steps,
bottleneck adapters of hidden/16) on PaliGemma's standard prompt.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from qvla.methods.method import Method, TrainingError
from qvla.methods.placement import PRESETS, Choice, Task, Towers
from qvla.methods.registry import KINDS, Kind, methods_in_words, refusal_on_nf4
from qvla.methods.unfreezing import stages_of
from qvla.settings import CAPTION_PREFIX

# All linear layers of the decoder, which QLoRA found to matter most (arXiv 2305.14314, section 4).
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
VISION_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
if TYPE_CHECKING:
    KindName = str
else:
    KindName = Literal[tuple(KINDS)]


class Recipe(BaseModel):
    """One fine-tune run. Every field is also a flag of `python -m qvla train`."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    method: KindName = Field("adapter", description=methods_in_words())
    model: str = Field(description="base checkpoint: a folder or a hub id")
    data: Path = Field(description="folder in the RISC layout (captions.csv and images)")
    output: Path = Field(description="folder that the adapter is written to when the run is done")

    objective: Literal["captions", "cider"] = Field(
        "captions",
        description="captions: cross-entropy on people's captions; cider: a last stage that makes "
        "sampled captions of a higher CIDEr-D likelier (self-critical training)",
    )
    samples: int = Field(5, ge=2, description="captions that cider samples of each photo")
    start_from: Path | None = Field(
        None, description="adapter to begin with, a folder (default: a new one)"
    )

    splits: list[str] = Field(["train"], min_length=1, description="splits to train on")
    eval_splits: list[str] = Field(["val"], description="splits to take the loss on; none: no loss")
    sources: list[str] | None = Field(None, description="only these sources (default: all)")
    caption_template: str | None = Field(
        None,
        min_length=1,
        description="makes captions of a table's columns, such as '{title}: {attributes.color}'",
    )
    eval_photos: int | None = Field(None, ge=1, description="at most this many evaluation photos")

    epochs: float = Field(1.0, gt=0, description="passes over the photos")
    max_steps: int | None = Field(None, ge=1, description="stop after these steps, not the epochs")
    batch_size: int = Field(4, ge=1, description="photos a step on each device")
    eval_batch_size: int | None = Field(
        None, ge=1, description="photos at once in evaluations (default: as a step)"
    )
    gradient_accumulation: int = Field(1, ge=1, description="batches added up to one step")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="peak learning rate (default: the method's; 5e-4 as in the report, 2e-4 for "
        "LoRA, 1e-5 full)",
    )
    vision_learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate in the vision tower (default: the same)"
    )
    projector_learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate in the projector (default: the same)"
    )
    unfreeze: list[str] | None = Field(
        None,
        description="stages, each an epoch and what of the method's weights is trained from then "
        "on: head, top2 (two layers next to the output as well) or all, such as 0:top2 1:all",
    )
    lr_scheduler: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="what follows the warm-up; constant has none unless warmup_steps"
    )
    warmup_steps: int = Field(2, ge=0, description="steps of linear warm-up")
    warmup_share: float = Field(
        0.0, ge=0, lt=1, description="at least this share of the steps is warm-up"
    )
    weight_decay: float = Field(1e-6, ge=0, description="AdamW's weight decay")
    adam_beta2: float = Field(0.999, gt=0, lt=1, description="AdamW's second beta")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this norm; 0: no")
    optimiser: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"] = (
        Field("adamw_torch", description="the report used paged_adamw_8bit, which needs a GPU")
    )
    seed: int = Field(0, ge=0, description="seeds weights, order, captions and views")

    reduction_factor: int = Field(16, ge=1, description="bottleneck width is hidden size / this")
    activation: str = Field("silu", description="activation inside the bottleneck")
    towers: Towers = Field("language", description="towers with adapters")
    placement: Choice = Field(
        "all", description="layers with adapters; top and bottom are halves, sparse every second"
    )
    vision_placement: Choice | None = Field(
        None, description="the same of the vision tower alone (default: as the placement)"
    )
    layers: list[int] | None = Field(
        None, description="decoder layers with adapters (default: those of the placement)"
    )
    vision_layers: list[int] | None = Field(
        None, description="vision layers with adapters (default: those of the placement)"
    )
    preset: Task | None = Field(None, description="a task's placement in both towers, and its rank")
    sites: list[Literal["attention", "mlp"]] = Field(
        ["attention", "mlp"], min_length=1, description="sublayers with an adapter after them"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout inside the adapter")
    train_norms: bool = Field(False, description="also train the norm after each adapter")
    rank: int = Field(
        16, ge=1, description="rank of LoRA and its like; 16 trains about what the adapter does"
    )
    lora_alpha: float = Field(32.0, gt=0, description="LoRA's output is scaled by this / rank")
    lora_targets: list[str] = Field(
        list(LORA_TARGETS), min_length=1, description="decoder projections that LoRA goes around"
    )
    virtual_tokens: int = Field(20, ge=1, description="keys and values of a prefix in a layer")
    tasks: list[str] = Field(
        ["caption"],
        min_length=1,
        description="tasks of a multi-task LoRA, named as their prompts begin: caption, vqa (of "
        "questions), detect and so on",
    )
    train_task: str | None = Field(
        None,
        description="which of its tasks all rows train and the folder answers as (default: each "
        "row's own, by its prompt, or the first)",
    )
    vision_targets: list[str] = Field(
        list(VISION_TARGETS), min_length=1, description="the same of the vision tower"
    )
    projector: bool = Field(False, description="also go around the projector's linear layers")
    adaptive_rank: bool = Field(
        False,
        description="rank 8 in the first quarter of a tower, 32 up to its third, 16 after it",
    )
    rank_pattern: list[str] | None = Field(
        None, description="ranks of what a pattern of names matches, as NAME=RANK, such as q_proj=8"
    )
    block_size: int = Field(16, ge=2, description="side of a block of OFT's and BOFT's rotations")

    prefix: str = Field(CAPTION_PREFIX, min_length=1, description="the task's prompt")
    augment: Literal["none", "flips", "crops"] = Field(
        "none", description="flips: the eight flips and quarter turns; crops: those, and crops"
    )
    cache_mb: int = Field(1024, ge=0, description="keep photos, or features, in memory up to this")
    num_workers: int = Field(0, ge=0, description="processes that prepare batches")

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    bf16: bool = Field(True, description="bfloat16 autocast; float16 on a GPU without it")
    precision: Literal["fp32", "bf16", "int8"] | None = Field(
        None,
        description="of a base that is not in NF4 (default: bf16 with --bf16, else fp32; full: "
        "fp32)",
    )
    gradient_checkpointing: bool | None = Field(
        None, description="recompute activations (default: only on NF4, the report's choice)"
    )
    attention: Literal["auto", "eager", "sdpa"] = Field(
        "auto", description="the decoder's attention; auto: eager on the CPU, as loaded on a GPU"
    )

    log_steps: int = Field(10, ge=1, description="steps between points of the loss curve")
    eval_steps: int = Field(1000, ge=1, description="steps between evaluations")
    save_steps: int = Field(500, ge=1, description="steps between checkpoints")
    report_to: list[Literal["trackio", "wandb", "tensorboard"]] = Field(
        [], description="trackers that hear of every logged step; install the one you name"
    )
    sample_photos: int = Field(
        4, ge=0, description="evaluation photos that are captioned at each evaluation"
    )
    device_lock: Path | None = Field(
        None, description="lock file by which an app on the same device goes first"
    )

    @model_validator(mode="after")
    def _take_defaults(self) -> Recipe:
        own = dict(self.kind.method.defaults)
        if self.preset is not None:
            own["rank"] = PRESETS[self.preset].rank
        for name in own.keys() - self.model_fields_set:
            setattr(self, name, own[name])
        if self.learning_rate is None:
            self.learning_rate = self.kind.method.learning_rate
        return self

    @field_validator("unfreeze")
    @classmethod
    def _check_unfreezing(cls, stages: list[str] | None) -> list[str] | None:
        return None if stages is None else [str(stage) for stage in stages_of(stages)]

    @model_validator(mode="after")
    def _check_stage(self) -> Recipe:
        if self.start_from is not None and not self.kind.method.is_adapter:
            raise TrainingError(
                f"The method {self.method} makes no adapter that could start from one: name the "
                "checkpoint to start from as --model."
            )
        if self.start_from is not None and self.kind.method.no_start is not None:
            raise TrainingError(
                f"A run cannot start from an adapter of the method {self.method}: "
                f"{self.kind.method.no_start}. Leave --start-from out."
            )
        tasks = self.tasks if "tasks" in self.kind.method.fields else []
        if self.objective == "cider" and len(tasks) > 1 and self.train_task is None:
            raise TrainingError(
                "The objective cider trains one task of several alone: name it by --train-task."
            )
        if self.objective == "cider" and self.gradient_checkpointing:
            raise TrainingError(
                "The objective cider goes on from keys and values that are kept, so it cannot be "
                "had with --gradient-checkpointing; lower --batch-size or --samples instead."
            )
        return self

    @model_validator(mode="after")
    def _check_precision(self) -> Recipe:
        method = self.kind.method
        if self.precision == "int8" and self.kind.quantised:
            raise TrainingError(
                f"{self.method} has its base in NF4, so it cannot have it in int8: leave the "
                "precision out, or choose the method for a float base."
            )
        if self.precision == "int8" and (why := method.int8_reason or method.nf4_reason):
            raise TrainingError(
                f"{method.title} does not work on an INT8 base: {why}. Use bf16 or fp32."
            )
        return self

    @property
    def kind(self) -> Kind:
        """The method, and how its base is held: what `method` names in the registry."""
        return KINDS[self.method]

    @property
    def checkpoints(self) -> Path:
        """Where an unfinished run keeps its state: beside the output, removed when it is done."""
        return self.output.with_name(self.output.name + ".checkpoints")

    @property
    def events(self) -> Path:
        """The file that tells what happens in the run (`events`); it stays when that is done."""
        return self.output.with_name(self.output.name + ".events.jsonl")

    @property
    def base_precision(self) -> str:
        """The base's precision as `qvla.models.backbone.Precision` spells it."""
        if self.kind.quantised:
            return "nf4"
        own = self.precision or self.kind.method.precision
        return own or ("bf16" if self.bf16 else "fp32")

    @property
    def recomputes(self) -> bool:
        """Whether activations are recomputed in the backward pass."""
        if self.gradient_checkpointing is None:
            return self.kind.quantised and self.objective != "cider"
        return self.gradient_checkpointing

    def card(self) -> dict[str, Any]:
        """The recipe as JSON values, with the names of local folders instead of their paths."""
        values = self.model_dump(mode="json")
        for name in ("data", "output"):
            values[name] = Path(values[name]).name
        if self.start_from is not None:
            values["start_from"] = self.start_from.name
        del values["device_lock"]
        values["model"] = self.model_name
        return values

    @property
    def model_name(self) -> str:
        """The hub id, or the name of the base's folder."""
        return Path(self.model).resolve().name if Path(self.model).is_dir() else self.model


# What may differ when a run is resumed: where things lie and how they are watched.
MAY_CHANGE = {
    *("model", "data", "output", "start_from", "log_steps", "eval_steps", "save_steps"),
    *(
        "report_to",
        "num_workers",
        "cache_mb",
        "eval_splits",
        "eval_photos",
        "sample_photos",
        "eval_batch_size",
    ),
    "device_lock",
}


def make_recipe(**values: Any) -> Recipe:
    """A checked recipe; TrainingError says in one sentence what is wrong with the values."""
    try:
        return Recipe(**values)
    except ValidationError as error:
        if why := refusal_on_nf4(str(values.get("method"))):
            raise TrainingError(why) from error
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "recipe"
        if first["type"] == "missing":
            raise TrainingError(f"The recipe lacks {name}; give --{flag(name)}.") from error
        if first["type"] == "extra_forbidden":
            raise TrainingError(f"The recipe has no setting called {name}.") from error
        raise TrainingError(
            f"The recipe's {name} cannot be {first['input']!r}: {first['msg']}."
        ) from error


def fields_of(method: Method, **given: Any) -> SimpleNamespace:
    """A method's own fields of a recipe: those given, the others at their defaults.

    Values are not checked here. Raises TrainingError for a field that the method does not have.
    """
    for name in given:
        if name not in method.fields:
            raise TrainingError(
                f"{method.title} has no setting called {name}: it has "
                f"{', '.join(method.fields) or 'none of its own'}."
            )
    defaults = {name: Recipe.model_fields[name].get_default() for name in method.fields}
    return SimpleNamespace(**{**defaults, **method.defaults, **given})


def flag(name: str) -> str:
    """A field's name as its flag spells it."""
    return name.replace("_", "-")
