"""The methods suite: what an adapter of each method costs beside the base that it stands on.

Time: a decoding step with each method's adapter against one of the base, in turns on the same
weights. Memory: five adapters of three tuner classes on one base against one adapter, each in a
process of its own, where nothing but the adapters' own bytes should come on top. Adapters are new
ones with their methods' defaults: what they answer does not matter to what they cost.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from transformers import set_seed

from qvla.bench import arrangements
from qvla.bench import memory as processes
from qvla.bench.arrangements import BenchError
from qvla.bench.latency import Turn
from qvla.bench.turns import Case, Figure, in_turns
from qvla.captioning.contenders import Contender
from qvla.captioning.desk import answer_now
from qvla.captioning.generation import Generation
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import CAPTION_PREFIX
from qvla.methods.recipe import make_recipe
from qvla.methods.registry import KINDS, makes_model
from qvla.models.backbone import Precision, load_backbone
from qvla.records import store as records
from qvla.settings import Settings
from qvla.tuning.methods import add_method, save

log = logging.getLogger(__name__)

BASE = "base"
FIVE = ("lora", "lora", "adapter", "adapter", "ia3")  # three tuner classes
ARRANGEMENTS = {"one": FIVE[:1], "five": FIVE}
MEASURES = ("loaded", "tensors", "own")  # bytes, see `methods_memory`

Numbers = dict[str, "int | float | None"]


@dataclass(frozen=True)
class Plan:
    """What is done how often. Raises BenchError for counts below one, and two tokens."""

    data: Path
    photos: int = 8
    repeats: int = 7
    memory_repeats: int = 3
    new_tokens: int = 20

    def __post_init__(self) -> None:
        least = {"photos": 1, "repeats": 1, "memory_repeats": 1, "new_tokens": 2}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise BenchError(f"--{name.replace('_', '-')} must be at least {smallest}.")


def run(options: argparse.Namespace, settings: Settings) -> tuple[str, records.Record]:
    """The suite as `qvla bench` runs it: its table and its record."""
    plan = Plan(
        data=options.data,
        photos=options.photos,
        repeats=options.repeats,
        memory_repeats=options.memory_repeats,
        new_tokens=options.new_tokens,
    )
    record = measure(plan, settings, chosen_methods(options.variant))
    return table(record), record


def chosen_methods(named: str | None) -> tuple[str, ...]:
    """The kinds of a comma-separated list, or all that make adapters for a float base."""
    known = [name for name, kind in KINDS.items() if not (kind.quantised or makes_model(name))]
    if named is None:
        return tuple(known)
    return arrangements.some_of(named, known, "--variant")


def measure(plan: Plan, settings: Settings, methods: Sequence[str]) -> records.Record:
    """Makes the adapters, then measures memory and time."""
    settings = arrangements.made_explicit(settings)
    paths, images = arrangements.open_photos(plan.data, plan.photos, settings)
    with tempfile.TemporaryDirectory(prefix="qvla-bench-") as folder:
        made: dict[str, Path] = {}
        for name in dict.fromkeys((*methods, *FIVE)):
            log.info("Making an adapter of %s.", KINDS[name].method.title)
            made[name] = make_adapter(settings, name, Path(folder) / name)
        numbers = _memories(plan, settings, made)
        lineup = lineup_of(settings, {name: made[name] for name in methods})
    numbers |= _times(plan, lineup, methods, images)
    return records.new_record(
        "bench/methods",
        model=settings.model_name,
        variants=(BASE, *methods),
        data=records.Data(
            name=plan.data.name,
            items=len(paths),
            fingerprint=records.fingerprint(paths),
        ),
        numbers=numbers,
        protocol={
            "token": "a decoding step after the first, one photo a turn, with a cache; each method "
            "answers alone, all on the same weights",
            "ratios": "median against median; lowest and highest are of single turns",
            "order": "in turns, after one warm-up each",
            "repeats": plan.repeats,
            "new_tokens": plan.new_tokens,
            "memory_repeats": plan.memory_repeats,
            "memory": "loaded: "
            + processes.counted_in(settings.device)
            + "; tensors: bytes of all "
            "parameters and buffers, each storage once; own: of the adapters alone",
            "five": list(FIVE),
            "extra": "five against one, less the bytes of the four adapters that come on top",
            "device": settings.device,
            "precision": settings.precision,
            "threads": torch.get_num_threads(),
        },
    )


def make_adapter(settings: Settings, method: str, folder: Path) -> Path:
    """Writes a new adapter of a method with its defaults, as training would begin with it."""
    recipe = make_recipe(
        method=method,
        model=settings.model,
        data=folder,
        output=folder,
        device=settings.device,
        precision=settings.precision,
    )
    backbone = load_backbone(
        settings.model, Precision(settings.precision), device=settings.device, for_training=True
    )
    set_seed(0)
    save(add_method(backbone, recipe), backbone.processor, recipe, folder)
    return folder


def lineup_of(settings: Settings, adapters: dict[str, Path]) -> Lineup:
    """The base and these adapters on it, by name. Raises BenchError when one is not there."""
    contenders = [Contender(name=BASE, title="Base", base=settings.model, precision="auto")]
    contenders += [
        Contender(name=name, title=name, base=settings.model, adapter=str(folder))
        for name, folder in adapters.items()
    ]
    precise = [one.model_copy(update={"precision": settings.precision}) for one in contenders]
    lineup = Lineup.of(precise, device=settings.device)
    for variant in lineup.variants():
        if not variant.available:
            raise BenchError(f"{variant.title} cannot be measured: {variant.reason}")
    return lineup


def _times(
    plan: Plan, lineup: Lineup, methods: Sequence[str], images: Sequence[Image.Image]
) -> Numbers:
    shared = lineup.shared(BASE)
    decoding = arrangements.fixed_length(shared, plan.new_tokens)
    turns: dict[str, list[Turn]] = {name: [] for name in (BASE, *methods)}

    def case(name: str) -> Case:
        def turn(number: int) -> None:
            image = images[number % len(images)]
            said = answer_now(Generation(shared, [name], [image], decoding, CAPTION_PREFIX))[name]
            turns[name].append(Turn(0.0, tuple(said)))

        return turn

    in_turns({name: case(name) for name in turns}, plan.repeats, torch.device(shared.device))
    steps = {
        name: tuple(float(one.token_seconds or 0) for one in own[1:])  # the first was a warm-up
        for name, own in turns.items()
    }
    numbers: Numbers = {f"{name}/token_seconds": median(own) for name, own in steps.items()}
    for name in methods:
        figure = Figure(name, name, BASE, "s", steps[name], steps[BASE])
        numbers[f"{name}/token_ratio"] = figure.ratio
        numbers[f"{name}/token_ratio/lowest"], numbers[f"{name}/token_ratio/highest"] = (
            figure.spread
        )
        numbers[f"{name}/own_bytes"] = shared.adapter_bytes[name]
    return numbers


def _memories(plan: Plan, settings: Settings, made: dict[str, Path]) -> Numbers:
    numbers: Numbers = {}
    for arrangement, names in ARRANGEMENTS.items():
        folders = json.dumps([str(made[name]) for name in names])
        told = []
        for turn in range(plan.memory_repeats):
            log.info("Memory of %s, turn %d of %d.", arrangement, turn + 1, plan.memory_repeats)
            told.append(
                processes.in_own_process(
                    "qvla.bench.methods_memory",
                    *(settings.model_dump_json(), folders),
                    what=f"Memory with {len(names)} adapters",
                )
            )
        for name in MEASURES:
            numbers[f"{arrangement}/{name}_bytes"] = median(one[name] for one in told)
    for name in ("loaded", "tensors"):
        more, own = (
            (numbers[f"five/{which}_bytes"] or 0) - (numbers[f"one/{which}_bytes"] or 0)
            for which in (name, "own")
        )
        numbers[f"five/extra_{name}_bytes"] = more - own
    return numbers


def table(record: records.Record) -> str:
    """The figures as text, with what they were measured on."""
    machine = ", ".join(record.hardware.accelerators) or record.hardware.processor
    protocol = record.protocol
    lines = [
        f"{record.model} in {protocol['precision']} on {protocol['device']} ({machine}), "
        f"{protocol['threads']} threads, medians of {protocol['repeats']} turns",
        "",
        f"{'method':34}{'a token':>12}{'of base':>9}   of single turns    own bytes",
        f"{'base':34}{1000 * record.number('base/token_seconds'):9.2f} ms",
    ]
    for name in record.variants[1:]:
        low, high = (record.number(f"{name}/token_ratio/{end}") for end in ("lowest", "highest"))
        lines.append(
            f"{KINDS[name].method.title:34}{1000 * record.number(f'{name}/token_seconds'):9.2f} ms"
            f"{record.number(f'{name}/token_ratio'):9.3f}   {low:.3f} to {high:.3f}"
            f"{record.number(f'{name}/own_bytes') / 1e6:12.3f} MB"
        )
    lines.append("")
    for name, words in (("tensors", "Tensors"), ("loaded", "Memory of the process")):
        one, five = (record.number(f"{which}/{name}_bytes") for which in ARRANGEMENTS)
        extra = record.number(f"five/extra_{name}_bytes")
        lines.append(
            f"{words}: {one / 1e6:.3f} MB with one adapter, {five / 1e6:.3f} MB with five, "
            f"{extra / 1e6:.3f} MB more than the adapters' own bytes."
        )
    return "\n".join(lines)
