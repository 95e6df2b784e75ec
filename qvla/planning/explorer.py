"""What a way to adapt a model costs, told from its configuration alone: parameters, bytes, memory,
operations, the modules that it touches, and the code and command that do it.

The method is put around the model on the meta device, as training does it, so that what is counted
is what would be trained. No weight and no network is needed for what is built in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvla.errors import QvlaError
from qvla.methods.command import command_line
from qvla.methods.method import Method
from qvla.methods.recipe import Recipe, make_recipe
from qvla.methods.registry import KINDS, METHODS, Kind
from qvla.models.params import read_model_config
from qvla.planning.planner import plan
from qvla.planning.sites import Site, Tower, find_sites, find_towers, operations
from qvla.planning.snippets import code_for
from qvla.planning.stored import stored_bytes
from qvla.planning.trainable import Skeleton

DATA = "RISC"  # that the command line names; any other does as well
NF4 = "nf4"


class ExploreError(QvlaError):
    """What was asked for does not exist; the message says what does."""


@dataclass(frozen=True)
class Exploration:
    """What one choice comes to.

    `total_params` are the base's and the adapter's, as PEFT prints them, and `percent` is of those;
    `adapter_bytes` is the size of the file that is saved; `train_bytes` and `serve_bytes` are the
    planner's totals on a GPU, for a batch of the recipe's size and for one photo, and None of a
    family whose activations the planner does not know.
    `token_operations` are added to each token that the decoder writes, `photo_operations` to each
    photo's way through the vision tower, both before a merge, and None where they were not counted.
    """

    model: str
    method: str
    kind: str
    title: str
    precision: str
    settings: Mapping[str, Any]
    trainable_params: int
    total_params: int
    base_params: int
    adapter_bytes: int
    mergeable: bool
    works_on_nf4: bool
    nf4_reason: str
    train_bytes: int | None
    serve_bytes: int | None
    token_operations: int | None
    photo_operations: int | None
    sites: tuple[Site, ...]
    towers: tuple[Tower, ...]
    code: str
    command: str

    @property
    def percent(self) -> float:
        return 100 * self.trainable_params / self.total_params

    def as_json(self) -> dict[str, Any]:
        """JSON-ready, without what is there to be drawn."""
        values = {name: value for name, value in vars(self).items() if name != "towers"}
        values["percent"] = round(self.percent, 4)
        values["sites"] = [site.as_json() for site in self.sites]
        return values


def explore(
    model: str | Path,
    method: str = "lora",
    *,
    precision: str | None = None,
    called: str | None = None,
    **fields: Any,
) -> Exploration:
    """Counts one choice.

    Args:
        model: a built-in name, a checkpoint's folder (its weights may be missing), or a hub id.
        method: a name in `qvla.methods.registry`, of a method or of a kind of recipe.
        precision: of the base: fp32, bf16, int8 or nf4; by default the recipe's.
        called: what code and command are to name the model by; by default as it is named here.
        fields: what a recipe may say of that method, such as `rank`; for one with a
            `reduction_factor` also `width`, of the bottleneck.

    Raises:
        ExploreError: a method that does not exist or does not work on that precision, or a width
            that is none.
        TrainingError: a field that the method does not have, a value, target or layer that cannot
            be.
        BackboneError: an unknown model or one of a family that is not known here.
    """
    kind = find_kind(method, precision)
    entry = kind.method
    skeleton = Skeleton(read_model_config(model))
    recipe = recipe_for(model, kind, precision, _with_factor(entry, fields, skeleton))
    family, base_params = skeleton.family, sum(skeleton.sizes)
    places, bare = family.places(skeleton.config), skeleton.model
    linear = [name for name, _ in bare.named_modules() if name in skeleton.linear_layers]
    touched = entry.touched(bare, recipe, places)
    skeleton.train(entry, recipe)
    adapted = skeleton.model
    sites = find_sites(bare, adapted, touched, family)
    trained = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    seeing = operations(adapted, (site for site in sites if site.sees))
    tokens = family.image_tokens(skeleton.config)
    return Exploration(
        model=str(model),
        method=entry.name,
        kind=kind.name,
        title=entry.title,
        precision=recipe.base_precision,
        settings={name: getattr(recipe, name) for name in entry.fields},
        trainable_params=trained,
        total_params=sum(one.numel() for one in adapted.parameters()),
        base_params=base_params,
        adapter_bytes=stored_bytes(adapted),
        mergeable=entry.merges,
        works_on_nf4=entry.on_nf4,
        nf4_reason=nf4_reason(entry),
        train_bytes=_memory(recipe, skeleton, "training"),
        serve_bytes=_memory(recipe, skeleton, "captioning"),
        token_operations=operations(adapted, (site for site in sites if not site.sees)),
        photo_operations=None if seeing is None else seeing * tokens,
        sites=sites,
        towers=find_towers(linear, sites, skeleton.config, family),
        code=code_for(called or str(model), recipe.base_precision, entry.config(recipe, places)),
        command=command_line(recipe.model_copy(update={"model": called or str(model)})),
    )


def find_kind(method: str, precision: str | None = None) -> Kind:
    """The kind of recipe by its own name, or by that of its method and the base's precision."""
    if method in KINDS and method not in METHODS:
        kind = KINDS[method]
        if precision is None or (precision == NF4) == kind.quantised:
            return kind
        method = kind.method.name
    if method not in METHODS:
        raise ExploreError(
            f"There is no method {method!r}: choose one of {', '.join(METHODS)}, or of the kinds "
            f"of recipe {', '.join(KINDS)}."
        )
    entry = METHODS[method]
    found = [kind for kind in KINDS.values() if kind.method is entry]
    for kind in found:
        if kind.quantised == (precision == NF4):
            return kind
    raise ExploreError(f"{entry.title} does not work on an NF4 base: {entry.nf4_reason}.")


def recipe_for(
    model: str | Path, kind: Kind, precision: str | None, fields: Mapping[str, Any]
) -> Recipe:
    """The recipe that an exploration is of; raises TrainingError."""
    given = {name: value for name, value in fields.items() if value is not None}
    if precision is not None and not kind.quantised:
        given["precision"] = precision
    for name in given:
        if name != "precision" and name not in kind.method.fields:
            raise ExploreError(
                f"{kind.method.title} has no setting called {name}: it has "
                f"{', '.join(kind.method.fields) or 'none of its own'}."
            )
    return make_recipe(
        method=kind.name, model=str(model), data=DATA, output=f"runs/{kind.name}", **given
    )


def nf4_reason(method: Method) -> str:
    """Why a method does not work on a quantised base, in a sentence; empty where it does."""
    reason = method.nf4_reason or ""
    return f"{reason[:1].upper()}{reason[1:]}." if not method.on_nf4 else ""


def _with_factor(method: Method, fields: Mapping[str, Any], skeleton: Skeleton) -> dict[str, Any]:
    """The fields with the bottleneck's width as the factor that gives it."""
    given = dict(fields)
    width = given.pop("width", None)
    if width is None:
        return given
    hidden = skeleton.family.places(skeleton.config).language.hidden
    if "reduction_factor" not in method.fields:
        raise ExploreError(f"{method.title} has no width: it has {', '.join(method.fields)}.")
    if not 1 <= width <= hidden or hidden // (hidden // width) != width:
        raise ExploreError(
            f"A bottleneck of this model cannot be {width} wide: choose a divisor of its hidden "
            f"size, {hidden}."
        )
    return {**given, "reduction_factor": hidden // width}


def _memory(recipe: Recipe, skeleton: Skeleton, task: Any) -> int | None:
    """The planner's total on a GPU, if it has one. What is served is held as the app would: in
    bfloat16, unless a precision was asked for.
    """
    if skeleton.family.no_plan is not None:
        return None
    method, training = recipe.kind.method, task == "training"
    precision = recipe.base_precision if training else recipe.precision or "bf16"
    variant = ("qvla" if recipe.kind.quantised else "adapter") if method.is_adapter else "base"
    own: dict[str, Any] = {}
    if method.is_adapter:
        own = {"method": method.name, **{name: getattr(recipe, name) for name in method.fields}}
    return plan(
        recipe.model,
        variant,
        task=task,
        batch_size=recipe.batch_size if training else 1,
        gradient_checkpointing=recipe.recomputes,
        optimiser=recipe.optimiser,
        precision=None if recipe.kind.quantised else precision,
        autocast=recipe.bf16,
        device="cuda",
        skeleton=skeleton,
        **own,
    ).total
