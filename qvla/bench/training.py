"""The training suite: images a second and memory of a fine-tune, beside a plain loop's.

The plain loop is the report's: every photo goes through the vision tower as part of the model's
call, and logits are computed at all positions. Both take the same steps on the same data, each in
a process of its own, in turns: an epoch of photos that were not seen before, and the beginning of a
second one, for which the product's way keeps what the vision tower made of them. Nothing augments.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from qvla.bench import arrangements
from qvla.bench import memory as processes
from qvla.bench.arrangements import BenchError
from qvla.bench.training_run import WARM_UP, WAYS, Job, Outcome
from qvla.captioning.contenders import TITLES
from qvla.methods.recipe import make_recipe
from qvla.planning import planner
from qvla.records import store as records
from qvla.settings import Settings

log = logging.getLogger(__name__)

METHODS = ("adapter", "qvla")

Numbers = dict[str, "int | float | None"]


@dataclass(frozen=True)
class Plan:
    """What is trained how often. Raises BenchError for counts below one."""

    data: Path
    repeats: int = 3
    batch_size: int = 4
    steps: int = 20

    def __post_init__(self) -> None:
        for name, flag in (
            ("repeats", "memory-repeats"),
            ("batch_size", "train-batch"),
            ("steps", "train-steps"),
        ):
            if getattr(self, name) < 1:
                raise BenchError(f"--{flag} must be at least 1.")


@dataclass(frozen=True)
class Measured:
    """One run and what the planner says of it: at its peak, and of the steps that are counted."""

    outcome: Outcome
    planned: planner.Plan
    counted: planner.Plan

    @property
    def planned_activations(self) -> int:
        return self.counted.activations + self.counted.gradients

    @property
    def images_per_second(self) -> float:
        """Of photos that were not seen before."""
        return self.outcome.images / sum(self.outcome.seconds)

    @property
    def images_per_second_again(self) -> float:
        """Of the second epoch."""
        return self.outcome.images_again / sum(self.outcome.seconds_again)


def run(options: argparse.Namespace, settings: Settings) -> tuple[str, records.Record]:
    """The suite as `qvla bench` runs it: its table and its record."""
    plan = Plan(
        data=options.data,
        repeats=options.memory_repeats,
        batch_size=options.train_batch,
        steps=options.train_steps,
    )
    # Training makes its own adapters, so none has to be there.
    named = options.variant or ",".join(METHODS)
    chosen = arrangements.chosen_variants(named, settings)
    methods = [name for name in chosen if name in METHODS]
    if not methods:
        raise BenchError(f"Only {' and '.join(METHODS)} are trained here.")
    record = measure(plan, settings, methods)
    return table(record), record


def measure(plan: Plan, settings: Settings, methods: Sequence[str]) -> records.Record:
    """Trains each method in both ways, in turns."""
    settings = arrangements.made_explicit(settings)
    numbers: Numbers = {}
    series: dict[str, list[float]] = {}
    recipes: dict[str, Any] = {}
    for method in methods:
        runs: dict[str, list[Measured]] = {way: [] for way in WAYS}
        for turn in range(plan.repeats):
            for way, kept in runs.items():
                log.info("%s, %s way, turn %d of %d.", TITLES[method], way, turn + 1, plan.repeats)
                kept.append(train(plan, settings, method, way))
        first = runs["product"][0].outcome
        numbers |= {f"{method}/{name}": value for name, value in _numbers(runs).items()}
        series[f"{method}/training_seconds"] = first.curve_seconds
        series[f"{method}/training_bytes"] = [float(held) for held in first.curve_bytes]
        recipes[method] = first.recipe
    return records.new_record(
        "bench/training",
        model=settings.model_name,
        variants=methods,
        data=records.Data(
            name=plan.data.name, items=first.photos, fingerprint=f"sha256:{first.fingerprint}"
        ),
        numbers=numbers,
        series=series,
        protocol={
            "product": "qvla.tuning.training.train: the vision tower without gradients, once for "
            "each photo, logits at labelled positions alone",
            "plain": "one call of the model with photos and labels: logits at all positions, "
            "attention as loaded (SDPA); the same data, recomputing, precision and optimiser",
            "ratios": "median against median; lowest and highest are of single turns",
            "again": "of the second epoch: every photo was seen before; without it, of the first",
            "augment": "none",
            "order": "in turns, each run in a process of its own",
            "repeats": plan.repeats,
            "batch_size": plan.batch_size,
            "steps": plan.steps,
            "warm_up_steps": WARM_UP,
            "splits": "all",
            "recipes": recipes,
            "peak": processes.counted_in(settings.device),
            "memory_ratio": "of what tensors take in a step above what they take before it, from "
            "PyTorch's allocator (on the CPU: its profiler)",
            "series": "of the first run of the product's way, from its loaded weights through the "
            "timed steps",
            "device": settings.device,
            "precision": settings.precision,
            "threads": torch.get_num_threads(),
        },
    )


def train(
    plan: Plan, settings: Settings, method: str, way: str, steps: int | None = None
) -> Measured:
    """One run in a process of its own. The settings must name the device and precision."""
    job = Job(
        way=way,
        method=method,
        model=settings.model,
        data=str(plan.data),
        device=settings.device,
        # As a recipe has it: training computes in bfloat16, on the CPU too.
        precision="bf16",
        batch_size=plan.batch_size,
        steps=steps or plan.steps,
    )
    what = f"Training {TITLES[method]} in the {way} way"
    answer = processes.in_own_process("qvla.bench.training_run", json.dumps(asdict(job)), what=what)
    outcome = Outcome(**answer)
    recipe = make_recipe(
        method=method,
        model=settings.model,
        data=plan.data,
        output=plan.data,
        batch_size=plan.batch_size,
        device=settings.device,
        precision=job.precision,
    )
    image_tokens = planner.image_tokens(settings.model)
    planned, counted = (
        planner.for_recipe(recipe, text_tokens=tokens - image_tokens, label_tokens=labels)
        for tokens, labels in (outcome.timed_shape, outcome.counted_shape)
    )
    return Measured(outcome, planned, counted)


def _numbers(runs: dict[str, list[Measured]]) -> Numbers:
    speeds = {way: [one.images_per_second for one in kept] for way, kept in runs.items()}
    peaks = {way: [one.outcome.peak for one in kept] for way, kept in runs.items()}
    tensors = {way: [one.outcome.activations for one in kept] for way, kept in runs.items()}
    again = {way: [one.images_per_second_again for one in kept] for way, kept in runs.items()}
    first = runs["product"][0]
    return {
        "images_per_second": median(speeds["product"]),
        "images_per_second/lowest": min(speeds["product"]),
        "images_per_second/highest": max(speeds["product"]),
        "step_seconds": median(second for one in runs["product"] for second in one.outcome.seconds),
        "held_bytes": median(one.outcome.held for one in runs["product"]),
        "peak_bytes": median(peaks["product"]),
        "activation_bytes": median(tensors["product"]),
        "plain_images_per_second": median(speeds["plain"]),
        "plain_peak_bytes": median(peaks["plain"]),
        "plain_activation_bytes": median(tensors["plain"]),
        **_ratios("speed_ratio", speeds),
        "images_per_second_again": median(again["product"]),
        "plain_images_per_second_again": median(again["plain"]),
        **_ratios("speed_ratio_again", again),
        "memory_ratio": median(tensors["product"]) / median(tensors["plain"]),
        "planned_peak_bytes": first.planned.process,
        "planned_activation_bytes": first.planned_activations,
    }


def _ratios(name: str, speeds: dict[str, list[float]]) -> Numbers:
    """Of medians, and the lowest and highest of single turns."""
    single = [ours / plain for ours, plain in zip(speeds["product"], speeds["plain"], strict=True)]
    return {
        name: median(speeds["product"]) / median(speeds["plain"]),
        f"{name}/lowest": min(single),
        f"{name}/highest": max(single),
    }


def table(record: records.Record) -> str:
    """The figures as text, with what they were measured on."""
    machine = ", ".join(record.hardware.accelerators) or record.hardware.processor
    protocol = record.protocol
    lines = [
        f"{record.model} on {protocol['device']} ({machine}), {protocol['threads']} threads",
        f"{record.items} photos, {protocol['batch_size']} a step, {protocol['steps']} steps, "
        f"medians of {protocol['repeats']} turns",
        "",
        f"{'':36}{'here':>14}{'plain loop':>14}{'ratio':>8}   of single turns",
    ]
    for method in record.variants:
        own = {
            name.removeprefix(f"{method}/"): value
            for name, value in record.numbers.items()
            if name.startswith(f"{method}/") and value is not None
        }
        title = TITLES[method]
        lines += [
            _speeds(f"{title}, images a second", own, ""),
            _speeds("  in later epochs", own, "_again"),
            f"{title + ', memory of a step':36}{own['activation_bytes'] / 1e6:11,.1f} MB"
            f"{own['plain_activation_bytes'] / 1e6:11,.1f} MB{own['memory_ratio']:8.2f}",
            f"{title + ', peak (planned)':36}{own['peak_bytes'] / 1e6:11,.1f} MB"
            f"{own['plain_peak_bytes'] / 1e6:11,.1f} MB"
            f"        ({own['planned_peak_bytes'] / 1e6:,.1f} MB)",
        ]
    return "\n".join(lines)


def _speeds(title: str, own: dict[str, int | float], which: str) -> str:
    ratio = f"speed_ratio{which}"
    return (
        f"{title:36}{own[f'images_per_second{which}']:14.2f}"
        f"{own[f'plain_images_per_second{which}']:14.2f}{own[ratio]:8.2f}   "
        f"{own[f'{ratio}/lowest']:.2f} to {own[f'{ratio}/highest']:.2f}"
    )
