"""The memory suite: what each variant takes when it is loaded, when it captions and when it trains.

Every figure is taken in a process of its own, because memory that a process once had is rarely
given back whole. The planner's predictions stand beside them.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from qvla.bench import arrangements, training
from qvla.bench.arrangements import BenchError
from qvla.bench.memory import counted_in, in_own_process
from qvla.bench.memory_variant import VariantMemory
from qvla.captioning.contenders import VARIANTS, title_of
from qvla.planning import planner
from qvla.records import store as records
from qvla.settings import Settings

log = logging.getLogger(__name__)

PARTS = ("loading", "captioning", "training")
# On the CPU oneDNN makes kernels for each new length of a batch, so that the process grows for
# about ten steps on the examples: after four, its peak is a third below that of a run that goes on.
TRAINING_STEPS = 20

Numbers = dict[str, "int | float | None"]


@dataclass(frozen=True)
class Plan:
    """What is measured how often. Raises BenchError for counts below one."""

    data: Path
    parts: tuple[str, ...] = PARTS
    repeats: int = 3
    new_tokens: int = 20
    train_batch: int = 4

    def __post_init__(self) -> None:
        for name, flag in (
            ("repeats", "memory-repeats"),
            ("new_tokens", "new-tokens"),
            ("train_batch", "train-batch"),
        ):
            if getattr(self, name) < 1:
                raise BenchError(f"--{flag} must be at least 1.")


def run(options: argparse.Namespace, settings: Settings) -> tuple[str, records.Record]:
    """The suite as `qvla bench` runs it: its table and its record.

    `options.parts` may name some of `PARTS`, separated by commas.
    """
    plan = Plan(
        data=options.data,
        parts=chosen_parts(getattr(options, "parts", None)),
        repeats=options.memory_repeats,
        new_tokens=options.new_tokens,
        train_batch=options.train_batch,
    )
    record = measure(plan, settings, arrangements.chosen_variants(options.variant, settings))
    return table(record), record


def chosen_parts(named: str | None) -> tuple[str, ...]:
    """The parts of a comma-separated list; None means all of them."""
    if named is None:
        return PARTS
    return arrangements.some_of(named, PARTS, "--parts")


def measure(plan: Plan, settings: Settings, variants: Sequence[str]) -> records.Record:
    """Measures the variants one after another, each as often as the plan says."""
    settings = arrangements.made_explicit(settings)
    [photo] = arrangements.photos_in(plan.data, 1)
    numbers: Numbers = {}
    recipes: dict[str, Any] = {}
    for variant in variants:
        if {"loading", "captioning"} & set(plan.parts):
            numbers |= _loaded(plan, settings, variant, photo)
        if "training" in plan.parts and variant in ("adapter", "qvla"):
            more, recipes[variant] = _trained(plan, settings, variant)
            numbers |= more
    return records.new_record(
        "bench/memory",
        model=settings.model_name,
        variants=variants,
        data=records.Data(name=plan.data.name, items=1, fingerprint=records.fingerprint([photo])),
        numbers=numbers,
        protocol={
            "parts": list(plan.parts),
            "processes": "a new one for each variant and repeat, once to load and caption and once "
            "to train; medians",
            "repeats": plan.repeats,
            "memory": counted_in(settings.device),
            "photo": photo.name,
            "captioning": f"this one photo, {plan.new_tokens} tokens, after one caption to warm up",
            "training": {
                "method": "qvla.tuning.training on photos of the data, whatever their split",
                "batch_size": plan.train_batch,
                "steps": TRAINING_STEPS,
                "recipes": recipes,
            },
            "planned": "qvla.planning, from the configuration; on the CPU with what the process "
            "takes, on a GPU without the CUDA context, which the allocator does not count",
            "device": settings.device,
            "precision": settings.precision,
            "threads": torch.get_num_threads(),
        },
    )


def _loaded(plan: Plan, settings: Settings, variant: str, photo: Path) -> Numbers:
    captions = "captioning" in plan.parts
    turns = []
    for turn in range(plan.repeats):
        log.info("Loading %s, turn %d of %d.", title_of(variant), turn + 1, plan.repeats)
        given = (settings.model_dump_json(), str(photo), str(plan.new_tokens))
        answer = in_own_process(
            "qvla.bench.memory_variant",
            variant,
            *given,
            "yes" if captions else "no",
            what=f"The memory of {title_of(variant)}",
        )
        turns.append(VariantMemory(**answer))
    first = turns[0]
    planned = _planned(plan, settings, variant, first)
    numbers: Numbers = {"weights_bytes": first.weights}
    if planned is not None:
        numbers["planned_weights_bytes"] = planned.weights
    numbers |= {f"parts/{part}_bytes": size for part, size in first.parts.items()}
    numbers |= {f"dtypes/{dtype}_bytes": size for dtype, size in first.dtypes.items()}
    numbers["loaded_bytes"] = median(turn.loaded for turn in turns)
    numbers["loading_peak_bytes"] = median(turn.loading_peak for turn in turns)
    if captions:
        peaks = [turn.captioning_peak for turn in turns if turn.captioning_peak is not None]
        numbers["captioning_peak_bytes"] = median(peaks)
        if planned is not None:
            numbers["planned_captioning_peak_bytes"] = planned.process
    return {f"{variant}/{name}": value for name, value in numbers.items()}


def _planned(
    plan: Plan, settings: Settings, variant: str, found: VariantMemory
) -> planner.Plan | None:
    """What the planner foretells, which knows the default three alone."""
    if variant not in VARIANTS or settings.lineup is not None:
        return None
    return planner.plan(
        settings.model,
        variant,
        task="captioning",
        batch_size=1,
        new_tokens=plan.new_tokens,
        precision=settings.precision,
        embeddings_8bit="int8" in found.dtypes,
        device=settings.device,
        **found.adapter,
    )


def _trained(plan: Plan, settings: Settings, variant: str) -> tuple[Numbers, dict[str, Any]]:
    turns = []
    trained = training.Plan(plan.data, batch_size=plan.train_batch, steps=TRAINING_STEPS)
    for turn in range(plan.repeats):
        log.info("Training %s, turn %d of %d.", title_of(variant), turn + 1, plan.repeats)
        turns.append(training.train(trained, settings, variant, "product"))
    first = turns[0]
    numbers: Numbers = {
        "training_peak_bytes": median(turn.outcome.peak for turn in turns),
        "training_held_bytes": median(turn.outcome.held for turn in turns),
        "training_activation_bytes": median(turn.outcome.activations for turn in turns),
        "planned_training_peak_bytes": first.planned.process,
        "planned_training_activation_bytes": first.planned_activations,
    }
    return {f"{variant}/{name}": value for name, value in numbers.items()}, first.outcome.recipe


def table(record: records.Record) -> str:
    """The figures as text, with what they were measured on."""
    machine = ", ".join(record.hardware.accelerators) or record.hardware.processor
    protocol = record.protocol
    training_batch = protocol["training"]["batch_size"]
    lines = [
        f"{record.model} in {protocol['precision']} and nf4 on {protocol['device']} ({machine})",
        f"In MB, medians of {protocol['repeats']} processes; planned from the configuration in "
        "brackets",
        "",
        f"{'':28}" + "".join(f"{title_of(name):>24}" for name in record.variants),
    ]
    rows = {
        "weights": ("weights_bytes", "planned_weights_bytes"),
        "loaded": ("loaded_bytes", None),
        "peak when loading": ("loading_peak_bytes", None),
        "peak, one caption": ("captioning_peak_bytes", "planned_captioning_peak_bytes"),
        f"peak, training by {training_batch}": (
            "training_peak_bytes",
            "planned_training_peak_bytes",
        ),
        "  of that, in a step": (
            "training_activation_bytes",
            "planned_training_activation_bytes",
        ),
    }
    for label, (name, planned) in rows.items():
        cells = []
        for variant in record.variants:
            value = record.numbers.get(f"{variant}/{name}")
            beside = record.numbers.get(f"{variant}/{planned}")
            text = "–" if value is None else f"{value / 1e6:,.1f}"
            cells.append(text + ("" if beside is None else f" ({beside / 1e6:,.1f})"))
        if set(cells) != {"–"}:
            lines.append(f"{label:28}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)
