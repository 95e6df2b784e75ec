"""Where in a model a method goes: which towers, which of their layers, which projections there.

A family says where its layers lie (`Places`), a recipe which of them are meant (`PlacementFields`),
and a method takes both in through here. No method names a path of a family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any, Literal, Protocol

from qvla.methods.method import TrainingError
from qvla.methods.places import Places, Stack

Towers = Literal["language", "vision", "both"]
Choice = Literal["all", "top", "bottom", "sparse"]
Task = Literal["captioning", "vqa", "grounding"]


class PlacementFields(Protocol):
    """What a recipe says of it, of every method that goes into layers."""

    towers: Towers
    placement: Choice
    vision_placement: Choice | None
    layers: list[int] | None
    vision_layers: list[int] | None
    preset: Task | None


PLACEMENT = tuple(PlacementFields.__annotations__)


@dataclass(frozen=True)
class Preset:
    """A task's placement: the share of each tower's layers, from the top; None is every second."""

    vision: Fraction | None
    language: Fraction | None
    rank: int


# The placements of the page "Vision-Language Adapters: Parameter-efficient Multimodal Fine-tuning",
# whose lists are for 6 layers of vision and 12 of language, as shares of the depth.
PRESETS: Mapping[Task, Preset] = {
    "captioning": Preset(vision=Fraction(1, 3), language=Fraction(1), rank=16),
    "vqa": Preset(vision=None, language=None, rank=24),
    "grounding": Preset(vision=Fraction(1), language=Fraction(1, 6), rank=32),
}


def chosen(choice: Choice, depth: int) -> list[int]:
    """The layers of a choice, counted from the input; never none."""
    half = max(depth // 2, 1)
    layers = {
        "all": range(depth),
        "top": range(depth // 2, depth),
        "bottom": range(half),
        "sparse": range(0, depth, 2),
    }
    return list(layers[choice])


class DecoderFields(Protocol):
    """What a recipe says of it, of a method that goes into the decoder alone."""

    placement: Choice
    layers: list[int] | None


def decoder_layers(recipe: DecoderFields, places: Places) -> list[int]:
    """The decoder layers that a recipe means; raises TrainingError for one that there is not."""
    if recipe.layers is None:
        return chosen(recipe.placement, places.language.depth)
    return _checked(recipe.layers, places.language)


def language_layers(recipe: PlacementFields, places: Places) -> list[int]:
    """The decoder layers that a recipe means, in order; raises TrainingError."""
    return _layers(recipe, places, "language")


def vision_layers(recipe: PlacementFields, places: Places) -> list[int]:
    """The vision tower's layers that a recipe means, in order; raises TrainingError."""
    return _layers(recipe, places, "vision")


def takes_all(recipe: PlacementFields, places: Places) -> bool:
    """Whether a recipe means the decoder's layers, all of them, and no others, without a list."""
    plain = recipe.towers == "language" and recipe.preset is None
    return plain and recipe.layers is None and recipe.placement == "all"


def _layers(recipe: PlacementFields, places: Places, tower: Literal["language", "vision"]) -> Any:
    stack = places.language if tower == "language" else places.vision
    given = recipe.layers if tower == "language" else recipe.vision_layers
    towers = "both" if recipe.preset is not None else recipe.towers
    if towers not in (tower, "both"):
        if given is not None:
            name = "layers" if tower == "language" else "vision_layers"
            raise TrainingError(
                f"The recipe names {name} but leaves the {stack.title} out: add --towers both."
            )
        return []
    if not stack.depth:
        raise TrainingError(f"The base has no {stack.title} apart: leave it out of the recipe.")
    if given is not None:
        return _checked(given, stack)
    if recipe.preset is not None:
        preset = PRESETS[recipe.preset]
        share = preset.language if tower == "language" else preset.vision
        if share is None:
            return chosen("sparse", stack.depth)
        return list(range(stack.depth - max(round(share * stack.depth), 1), stack.depth))
    own = recipe.vision_placement if tower == "vision" else None
    return chosen(own or recipe.placement, stack.depth)


def _checked(given: Sequence[int], stack: Stack) -> list[int]:
    if not given:
        raise TrainingError(
            f"The recipe's list of layers of the {stack.title} is empty: leave it out for all."
        )
    beyond = [layer for layer in given if not 0 <= layer < stack.depth]
    if beyond:
        raise TrainingError(
            f"The base has {stack.title} layers 0 to {stack.depth - 1}, so the recipe cannot name "
            f"layer {beyond[0]}."
        )
    return sorted(set(given))


# ---- projections --------------------------------------------------------------------------------


class ProjectionFields(PlacementFields, Protocol):
    """What a recipe says of a method that goes around projections."""

    lora_targets: list[str]
    vision_targets: list[str]
    projector: bool


PROJECTIONS = (*PLACEMENT, "lora_targets", "vision_targets", "projector")


def projections(recipe: ProjectionFields, places: Places, title: str) -> list[str]:
    """Paths in the bare model of the projections that a recipe means; raises TrainingError for one
    that there is not, in the name of the method of that title.
    """
    found = []
    for stack, layers, targets in _wanted(recipe, places, title):
        found += [
            f"{path}.{layer}.{sublayer}.{name}"
            for path in stack.paths
            for layer in layers
            for name, sublayers in stack.projections.items()
            if name in targets
            for sublayer in sublayers
        ]
    return found + (list(places.projector) if recipe.projector else [])


def pattern(recipe: ProjectionFields, places: Places, title: str) -> str:
    """The same as a pattern of module names: PEFT would take plain names in both towers."""
    parts = []
    for stack, layers, targets in _wanted(recipe, places, title):
        every = stack is places.language and takes_all(recipe, places)
        within = r"\d+" if every else _one_of(layers)
        sublayers = dict.fromkeys(chain.from_iterable(stack.projections.values()))
        parts.append(
            rf"{_any_path(stack)}\.(?:{within})"
            rf"\.(?:{_one_of(map(re.escape, sublayers))})"
            rf"\.(?:{_one_of(map(re.escape, targets))})"
        )
    parts += [re.escape(path) for path in places.projector if recipe.projector]
    return rf".*{parts[0]}" if len(parts) == 1 else rf".*(?:{_one_of(parts)})"


def check_blocks(recipe: Any, places: Places, title: str) -> None:
    """Raises TrainingError for a `block_size` that some wanted projection's inputs are no multiple
    of. PEFT would take another one, or fail.
    """
    sizes = {
        f"the {stack.title}'s {target}": stack.inputs(target)
        for stack, _, targets in _wanted(recipe, places, title)
        for target in targets
    }
    if recipe.projector:
        sizes["the projector"] = places.vision.hidden
    for name, inputs in sizes.items():
        if inputs % recipe.block_size:
            raise TrainingError(
                f"A block size of {recipe.block_size} does not divide the {inputs} inputs of "
                f"{name}: choose a divisor of that."
            )


def _wanted(
    recipe: ProjectionFields, places: Places, title: str
) -> list[tuple[Stack, list[int], list[str]]]:
    if recipe.projector and not places.projector:
        raise TrainingError("The base has no projector to go around: leave --projector out.")
    wanted = [
        (places.language, language_layers(recipe, places), recipe.lora_targets),
        (places.vision, vision_layers(recipe, places), recipe.vision_targets),
    ]
    wanted = [one for one in wanted if one[1]]
    for stack, _, targets in wanted:
        for target in targets:
            if target not in stack.projections:
                raise TrainingError(
                    f"The {stack.title} has no projection {target!r} for {title}: choose among "
                    f"{', '.join(sorted(stack.projections))}."
                )
    return wanted


def _any_path(stack: Stack) -> str:
    """A pattern of where the stack's layers lie."""
    paths = [re.escape(path) for path in stack.paths]
    return paths[0] if len(paths) == 1 else f"(?:{_one_of(paths)})"


def _one_of(parts: Iterable[object]) -> str:
    return "|".join(map(str, parts))


# ---- ranks --------------------------------------------------------------------------------------


def ranks(recipe: Any, places: Places) -> dict[str, int]:
    """PEFT's `rank_pattern`: patterns of module names with the rank of what they match.

    A recipe's own `rank_pattern` goes first. `adaptive_rank` is the rule of the page that the
    presets are from: 8 in the first quarter of a tower's layers, 32 up to the third, 16 after it.
    """
    found: dict[str, int] = {}
    for line in recipe.rank_pattern or ():
        name, equals, rank = line.rpartition("=")
        if not (equals and name and rank.isdecimal() and int(rank)):
            raise TrainingError(f"A rank pattern is written NAME=RANK, such as q_proj=8: {line!r}.")
        try:
            re.compile(name)
        except re.error as error:
            raise TrainingError(f"The rank pattern {name!r} is no pattern of names.") from error
        found[name] = int(rank)
    if recipe.adaptive_rank:
        goes = [(places.language, language_layers), (places.vision, vision_layers)]
        for stack in [stack for stack, layers in goes if layers(recipe, places)]:
            by_rank: dict[int, list[int]] = {}
            for layer in range(stack.depth):
                by_rank.setdefault(adapted_rank(layer, stack.depth), []).append(layer)
            for rank, layers in by_rank.items():
                found[rf"{_any_path(stack)}\.(?:{_one_of(layers)})\..*"] = rank
    return found


def adapted_rank(layer: int, depth: int) -> int:
    """The rank of `adaptive_rank` in one layer of so many."""
    if 4 * layer < depth:
        return 8
    return 32 if 4 * layer < 3 * depth else 16
