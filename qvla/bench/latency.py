"""The latency suite: time to the first token, for each following one, and images a second.

Each variant alone, at several batch sizes, with captions of a fixed length and with captions that
end where the model ends them. All cases take turns, so that what drifts on the machine meets them
all.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import mean, median

import torch
from PIL import Image
from pydantic import JsonValue

from qvla.bench import arrangements
from qvla.bench.arrangements import BenchError
from qvla.bench.bandwidth import head_dtype, seconds_to_read, step_bytes
from qvla.bench.turns import in_turns
from qvla.captioning.contenders import title_of
from qvla.captioning.decoding import Decoding
from qvla.captioning.desk import answer_now
from qvla.captioning.generation import Caption, Generation, OutOfMemoryError
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import CAPTION_PREFIX
from qvla.progress import progress
from qvla.records import store as records
from qvla.settings import Settings

log = logging.getLogger(__name__)

STOPS = ("fixed", "natural")
LONGEST_NATURAL = Decoding().max_new_tokens


@dataclass(frozen=True)
class Plan:
    """What is done how often. Raises BenchError for counts below one."""

    data: Path
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    photos: int = 8
    repeats: int = 7
    new_tokens: int = 20

    def __post_init__(self) -> None:
        for name in ("photos", "repeats", "new_tokens"):
            if getattr(self, name) < 1:
                raise BenchError(f"--{name.replace('_', '-')} must be at least 1.")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise BenchError("--batch-sizes must be whole numbers of at least 1.")

    @property
    def natural_tokens(self) -> int:
        """The longest that a caption may become where the model ends it."""
        return max(LONGEST_NATURAL, self.new_tokens)


@dataclass(frozen=True)
class Case:
    """One variant, one way of stopping, one batch size; `key` is its stem in the record."""

    variant: str
    stop: str
    batch: int

    @property
    def key(self) -> str:
        return f"{self.variant}/{self.stop}/batch_{self.batch}"


@dataclass(frozen=True)
class Turn:
    """One batch captioned: seconds of it all, and its captions."""

    seconds: float
    captions: tuple[Caption, ...]

    @property
    def first_token_seconds(self) -> float:
        return self.captions[0].seconds_to_first_token  # the same for all rows of a greedy batch

    @property
    def token_seconds(self) -> float | None:
        """Of a decoding step after the first token; None where no caption has a second token."""
        longest = max(self.captions, key=lambda caption: caption.tokens)
        if longest.tokens < 2:
            return None
        return (longest.seconds - longest.seconds_to_first_token) / (longest.tokens - 1)


def run(options: argparse.Namespace, settings: Settings) -> tuple[str, records.Record]:
    """The suite as `qvla bench` runs it: its table and its record."""
    plan = Plan(
        data=options.data,
        batch_sizes=tuple(sorted(set(options.batch_sizes))),
        photos=options.photos,
        repeats=options.repeats,
        new_tokens=options.new_tokens,
    )
    record = measure(plan, settings, arrangements.chosen_variants(options.variant, settings))
    return table(record), record


def measure(plan: Plan, settings: Settings, variants: Sequence[str]) -> records.Record:
    """Times every variant in every way. Batches that memory does not hold are left out."""
    settings = arrangements.made_explicit(settings)
    device = torch.device(settings.device)
    paths, images = arrangements.open_photos(plan.data, plan.photos, settings)
    lineup = arrangements.load_lineup(settings, variants)
    read = {name: step_bytes(lineup.shared(name), name) for name in variants}
    heads = {name: head_dtype(lineup.shared(name)) for name in variants}
    floors = {name: seconds_to_read(size, device) for name, size in read.items()}
    cases = [
        Case(variant, stop, batch)
        for batch in plan.batch_sizes
        for stop in STOPS
        for variant in variants
    ]
    turns = _time(plan, lineup, cases, images, device)
    numbers: dict[str, int | float | None] = {}
    for name, floor in floors.items():
        numbers[f"{name}/floor_token_seconds"] = floor
    for case, own in turns.items():
        numbers |= _numbers(case, own)
    return records.new_record(
        "bench/latency",
        model=settings.model_name,
        variants=variants,
        data=records.Data(
            name=plan.data.name,
            items=len(paths),
            fingerprint=records.fingerprint(paths),
        ),
        numbers=numbers,
        protocol=_protocol(plan, settings, read, floors, heads)
        | {
            "left_out": [case.key for case in cases if case not in turns],
            "computes_in": {name: lineup.shared(name).loaded.computes_in for name in variants},
            "graphs": {name: lineup.shared(name).graphs.state for name in variants},
        },
    )


def _time(
    plan: Plan,
    lineup: Lineup,
    cases: Sequence[Case],
    images: Sequence[Image.Image],
    device: torch.device,
) -> dict[Case, list[Turn]]:
    """The turns of each case whose batches all fitted into memory."""
    answers: dict[Case, dict[int, tuple[Caption, ...]]] = {case: {} for case in cases}
    too_large: dict[str, int] = {}  # variant -> the smallest batch that did not fit

    def work(case: Case) -> Callable[[int], None]:
        shared = lineup.shared(case.variant)
        decoding: Decoding = Decoding(max_new_tokens=plan.natural_tokens)
        if case.stop == "fixed":
            decoding = arrangements.fixed_length(shared, plan.new_tokens)

        def turn(number: int) -> None:
            bar.step()
            if case.batch >= too_large.get(case.variant, case.batch + 1):
                return
            first = number * case.batch % len(images)
            batch = list(islice(cycle(images), first, first + case.batch))
            generation = Generation(shared, [case.variant], batch, decoding, CAPTION_PREFIX)
            try:
                answers[case][number] = tuple(answer_now(generation)[case.variant])
            except OutOfMemoryError as error:
                too_large[case.variant] = case.batch
                log.warning(
                    "%s: batches of %d and more are left out. %s",
                    title_of(case.variant),
                    case.batch,
                    error,
                )

        return turn

    with progress(len(cases) * (plan.repeats + 1), "batches captioned") as bar:
        seconds = in_turns({case.key: work(case) for case in cases}, plan.repeats, device)
    return {
        case: [Turn(seconds[case.key][turn], said) for turn, said in sorted(own.items())]
        for case, own in answers.items()
        if len(own) == plan.repeats and case.batch < too_large.get(case.variant, case.batch + 1)
    }


def _numbers(case: Case, turns: Sequence[Turn]) -> dict[str, int | float | None]:
    numbers: dict[str, int | float | None] = {}

    def put(name: str, middle: float, ends: Sequence[float]) -> None:
        numbers[f"{case.key}/{name}"] = middle
        numbers[f"{case.key}/{name}/lowest"] = min(ends)
        numbers[f"{case.key}/{name}/highest"] = max(ends)

    firsts = [turn.first_token_seconds for turn in turns]
    put("first_token_seconds", median(firsts), firsts)
    steps = [turn.token_seconds for turn in turns if turn.token_seconds is not None]
    if steps:
        put("token_seconds", median(steps), steps)
    seconds = [turn.seconds for turn in turns]
    put("images_per_second", case.batch / median(seconds), [case.batch / one for one in seconds])
    said = [caption.tokens for turn in turns for caption in turn.captions]
    numbers[f"{case.key}/tokens"] = mean(said)
    return numbers


def _protocol(
    plan: Plan,
    settings: Settings,
    read: Mapping[str, int],
    floors: Mapping[str, float],
    heads: Mapping[str, str],
) -> dict[str, JsonValue]:
    return {
        "units": "seconds of wall time with the device idle before each reading of the clock",
        "first_token": "from the decoded photos of a batch, before resizing, to its first tokens",
        "token": "a decoding step of the batch after the first: mean until its last caption ends",
        "images_per_second": "photos of a batch over seconds from decoded photos to texts",
        "values": "medians of all turns; lowest and highest are of single turns",
        "order": "in turns, after one warm-up each",
        "repeats": plan.repeats,
        "batch_sizes": list(plan.batch_sizes),
        "photos": "each batch goes on where the last turn's ended, from the first again after all",
        "decoding": "greedy, with a cache",
        "prefix": CAPTION_PREFIX,
        "fixed": f"exactly {plan.new_tokens} tokens a caption: the end of text is suppressed",
        "natural": f"to the model's end of text, at most {plan.natural_tokens} tokens",
        "new_tokens": plan.new_tokens,
        "natural_new_tokens": plan.natural_tokens,
        "weights": "base and adapter share theirs, each answers alone",
        "floor": "time to read once the weights of a decoding step, as fast as the device reads",
        "step_bytes": dict(read),
        "head_dtypes": dict(heads),
        "bandwidth_bytes_per_second": {name: read[name] / floors[name] for name in read},
        "device": settings.device,
        "precision": settings.precision,
        "threads": torch.get_num_threads(),
    }


def table(record: records.Record) -> str:
    """The record's numbers as text, the limit that reading the weights sets beside them."""
    numbers, protocol = record.numbers, record.protocol
    width = max(8, *(len(title_of(name)) for name in record.variants)) + 1
    machine = ", ".join(record.hardware.accelerators) or record.hardware.processor
    lines = [
        f"{record.model} in {protocol['precision']} and nf4 on {protocol['device']} ({machine}), "
        f"{protocol['threads']} threads",
        f"Greedy, medians of {protocol['repeats']} turns (lowest to highest). "
        f"Fixed: {protocol['fixed']}. Natural: {protocol['natural']}.",
        "",
        f"{'':{width}}{'stop':9}{'batch':>5}{'first token, ms':>26}{'following token, ms':>26}"
        f"{'floor':>9}{'images a second':>26}{'at most':>10}{'tokens':>8}",
    ]
    for variant in record.variants:
        floor = record.number(f"{variant}/floor_token_seconds")
        for stop in STOPS:
            for batch in protocol["batch_sizes"]:
                key = Case(variant, stop, batch).key
                if f"{key}/tokens" not in numbers:
                    continue
                tokens = record.number(f"{key}/tokens")
                lines.append(
                    f"{title_of(variant):{width}}{stop:9}{batch:5}"
                    f"{_with_range(record, f'{key}/first_token_seconds', 1000):>26}"
                    f"{_with_range(record, f'{key}/token_seconds', 1000):>26}"
                    f"{1000 * floor:9.2f}"
                    f"{_with_range(record, f'{key}/images_per_second', 1):>26}"
                    f"{batch / (tokens * floor):10,.0f}{tokens:8.1f}"
                )
    sizes = ", ".join(
        f"{title_of(name)} {size / 1e6:,.1f} MB at "
        f"{protocol['bandwidth_bytes_per_second'][name] / 1e9:,.1f} GB/s"
        for name, size in protocol["step_bytes"].items()
    )
    lines += [
        "",
        f"Floor: {protocol['floor']} ({sizes}).",
        "At most: images a second if nothing but that took time.",
    ]
    if protocol["left_out"]:
        lines.append(f"Left out, as memory did not hold them: {', '.join(protocol['left_out'])}.")
    return "\n".join(lines)


def _with_range(record: records.Record, name: str, scale: float) -> str:
    value = record.numbers.get(name)
    if value is None:
        return "–"
    low, high = (scale * record.number(f"{name}/{end}") for end in ("lowest", "highest"))
    return f"{scale * value:.4g} ({low:.4g} to {high:.4g})"
