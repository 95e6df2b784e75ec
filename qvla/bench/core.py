"""The first suite: what sharing a backbone saves, and what batching and a cache save."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from PIL import Image

from qvla.bench import arrangements, memory
from qvla.bench.arrangements import BenchError
from qvla.bench.turns import Case, Figure, in_turns
from qvla.captioning.contenders import VARIANTS
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption
from qvla.captioning.lineup import Lineup
from qvla.records import store as records
from qvla.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is done how often. Raises BenchError for counts below one."""

    data: Path
    photos: int = 8
    repeats: int = 7
    memory_repeats: int = 3
    new_tokens: int = 20
    stop: str = "fixed"

    def __post_init__(self) -> None:
        for name in ("photos", "repeats", "memory_repeats", "new_tokens"):
            if getattr(self, name) < 1:
                raise BenchError(f"--{name.replace('_', '-')} must be at least 1.")


def run(options: argparse.Namespace, settings: Settings) -> tuple[str, records.Record]:
    """The suite as `qvla bench` runs it: its table and its record."""
    plan = Plan(
        repeats=options.repeats,
        memory_repeats=options.memory_repeats,
        photos=options.photos,
        new_tokens=options.new_tokens,
        stop=options.stop,
        data=options.data,
    )
    figures, record = measure(plan, settings)
    return table(figures, record), record


def measure(plan: Plan, settings: Settings) -> tuple[list[Figure], records.Record]:
    """Measures everything. Memory comes first, while this process holds no weights."""
    settings = arrangements.made_explicit(settings)
    paths, images = arrangements.open_photos(plan.data, plan.photos, settings)
    held = _memories(plan, settings, paths[0])
    log.info("Loading the line-up, and three models beside it.")
    lineup = arrangements.load_lineup(settings)
    decoding = (
        arrangements.fixed_length(lineup.shared("base"), plan.new_tokens)
        if plan.stop == "fixed"
        else Decoding(max_new_tokens=plan.new_tokens)
    )
    compared = _compare(plan, settings, lineup, images, decoding)
    batched, same = _batches(plan, settings, lineup, images, decoding)
    times = compared | batched
    weights = _weights(lineup)
    figures = _figures(times, held, weights)
    record = _record(plan, settings, lineup, paths, figures, times, held, same)
    return figures, record


def _memories(plan: Plan, settings: Settings, photo: Path) -> dict[str, tuple[memory.Memory, ...]]:
    held: dict[str, list[memory.Memory]] = {name: [] for name in memory.ARRANGEMENTS}
    for turn in range(plan.memory_repeats):
        log.info("Measuring memory, turn %d of %d.", turn + 1, plan.memory_repeats)
        for name, values in held.items():
            values.append(
                memory.measure_in_own_process(name, settings, str(photo), plan.new_tokens)
            )
    return {name: tuple(values) for name, values in held.items()}


def _compare(
    plan: Plan,
    settings: Settings,
    lineup: Lineup,
    images: Sequence[Image.Image],
    decoding: Decoding,
) -> dict[str, tuple[float, ...]]:
    """One photo a turn: all three panes, the base alone, and three models that share nothing."""
    models = arrangements.load_separately(settings)
    base = {"base": models["base"]}

    def photo(turn: int) -> list[Image.Image]:
        return [images[turn % len(images)]]

    cases: dict[str, Case] = {
        "three_way": lambda turn: caption(lineup, photo(turn), VARIANTS, decoding),
        "base_alone": lambda turn: arrangements.caption_in_turn(base, photo(turn), decoding),
        "separate_in_turn": lambda turn: arrangements.caption_in_turn(
            models, photo(turn), decoding
        ),
        "separate_side_by_side": lambda turn: arrangements.caption_side_by_side(
            models, photo(turn), decoding
        ),
    }
    return in_turns(cases, plan.repeats, torch.device(settings.device))


def _batches(
    plan: Plan,
    settings: Settings,
    lineup: Lineup,
    images: Sequence[Image.Image],
    decoding: Decoding,
) -> tuple[dict[str, tuple[float, ...]], float]:
    """All photos with the adapter: in one batch, one by one, and in the report's way.

    Also returns the share of captions in which the report's way agrees with the batch.
    """
    shared = lineup.shared("adapter")
    said: dict[str, list[str]] = {}

    def batch(turn: int) -> None:
        answers = caption(lineup, images, ["adapter"], decoding)
        said["batch"] = [answer["adapter"].text for answer in answers]

    def one_by_one(turn: int) -> None:
        for image in images:
            caption(lineup, [image], ["adapter"], decoding)

    def without_cache(turn: int) -> None:
        said["loop"] = arrangements.caption_without_cache(shared, "adapter", images, decoding)

    cases = {"batch": batch, "one_by_one": one_by_one, "report_loop": without_cache}
    times = in_turns(cases, plan.repeats, torch.device(settings.device))
    same = [ours == theirs for ours, theirs in zip(said["batch"], said["loop"], strict=True)]
    return times, sum(same) / len(same)


def _weights(lineup: Lineup) -> dict[str, int]:
    """Bytes of weights: `adapter` counts the float base too, so the line-up holds it once."""
    own = {name: lineup.variant(name).weight_bytes for name in VARIANTS}
    return {"lineup": own["adapter"] + own["qvla"], "separate": sum(own.values())}


def _figures(
    times: Mapping[str, tuple[float, ...]],
    held: Mapping[str, tuple[memory.Memory, ...]],
    weights: Mapping[str, int],
) -> list[Figure]:
    def time(name: str, ours: str, other: str, words: tuple[str, str]) -> Figure:
        return Figure(name, *words, "s", times[ours], times[other])

    def memories(name: str, field: str, words: str) -> Figure:
        sides = (tuple(getattr(value, field) for value in held[side]) for side in held)
        return Figure(name, f"line-up, {words}", "three models", "bytes", *sides)

    return [
        time("three_way_to_base_ratio", "three_way", "base_alone", ("three panes", "base alone")),
        time(
            "three_way_to_separate_in_turn_ratio",
            "three_way",
            "separate_in_turn",
            ("three panes", "three models in turn"),
        ),
        time(
            "three_way_to_separate_side_by_side_ratio",
            "three_way",
            "separate_side_by_side",
            ("three panes", "three models side by side"),
        ),
        Figure(
            "lineup_to_separate_weights_ratio",
            "line-up, weights",
            "three models",
            "bytes",
            (weights["lineup"],),
            (weights["separate"],),
        ),
        memories("lineup_to_separate_loaded_ratio", "loaded", "loaded"),
        memories("lineup_to_separate_peak_ratio", "peak", "peak of one comparison"),
        time("batch_to_one_by_one_ratio", "batch", "one_by_one", ("batch", "photos one by one")),
        time("batch_to_report_loop_ratio", "batch", "report_loop", ("batch", "the report's loop")),
    ]


def _record(
    plan: Plan,
    settings: Settings,
    lineup: Lineup,
    paths: Sequence[Path],
    figures: Sequence[Figure],
    times: Mapping[str, tuple[float, ...]],
    held: Mapping[str, tuple[memory.Memory, ...]],
    same: float,
) -> records.Record:
    numbers: dict[str, int | float | None] = {}
    for figure in figures:
        numbers[figure.name] = figure.ratio
        stem = figure.name.removesuffix("_ratio")
        numbers[f"{stem}_lowest_ratio"], numbers[f"{stem}_highest_ratio"] = figure.spread
    numbers |= {f"{name}_seconds": median(seconds) for name, seconds in times.items()}
    for name, values in held.items():
        numbers[f"{name}_loaded_bytes"] = median(value.loaded for value in values)
        numbers[f"{name}_peak_bytes"] = median(value.peak for value in values)
    numbers |= {f"{name}_weights_bytes": size for name, size in _weights(lineup).items()}
    numbers["report_loop_same_captions_ratio"] = same
    return records.new_record(
        "bench/core",
        model=settings.model_name,
        variants=VARIANTS,
        data=records.Data(
            name=plan.data.name, items=len(paths), fingerprint=records.fingerprint(paths)
        ),
        numbers=numbers,
        protocol={
            "ratios": "median of all turns against median; lowest and highest are of single turns",
            "order": "in turns, after one warm-up each",
            "repeats": plan.repeats,
            "memory_repeats": plan.memory_repeats,
            "memory": "process above its imports" if settings.device == "cpu" else "allocator",
            "photos_in_batch": len(paths),
            "stop": plan.stop,
            "max_new_tokens": plan.new_tokens,
            "device": settings.device,
            "precision": settings.precision,
            "threads": torch.get_num_threads(),
        },
    )


def table(figures: Sequence[Figure], record: records.Record) -> str:
    """The figures as text, with what they were measured on."""
    machine = ", ".join(record.hardware.accelerators) or record.hardware.processor
    protocol = record.protocol
    length = f"{protocol['max_new_tokens']} tokens a caption"
    if protocol["stop"] == "natural":
        length = f"at most {length}"
    lines = [
        f"{record.model} in {protocol['precision']} and nf4 on {protocol['device']} ({machine}), "
        f"{protocol['threads']} threads",
        f"{record.items} photos, {length}, medians of {protocol['repeats']} turns "
        f"({protocol['memory_repeats']} for memory)",
        "",
        f"{'':34}{'':>11}  {'against':27}{'':>11}{'ratio':>8}   of single turns",
    ]
    for figure in figures:
        low, high = figure.spread
        lines.append(
            f"{figure.ours:34}{_amount(median(figure.values), figure.unit):>11}  "
            f"{figure.other:27}{_amount(median(figure.others), figure.unit):>11}"
            f"{figure.ratio:8.3f}   {low:.3f} to {high:.3f}"
        )
    same = record.numbers["report_loop_same_captions_ratio"]
    lines.append("")
    lines.append(f"The report's loop and the batch say the same on {same:.0%} of the photos.")
    return "\n".join(lines)


def _amount(value: float, unit: str) -> str:
    return f"{value:.3f} s" if unit == "s" else f"{value / 1e6:,.1f} MB"
