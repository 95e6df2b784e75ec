"""The engine against Transformers' own loop, and against itself: what batching and waiting cost.

All ways of a part take turns, so that what drifts on the machine meets them all, and each figure is
a ratio. `--parts` names some of them; at full size on a CPU `--parts token` is enough for an hour.
On CUDA the part `graphs` has the latency suite's figures too, with graphs and without.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import torch
from PIL import Image
from pydantic import JsonValue

from qvla.bench import arrangements, latency
from qvla.bench.arrangements import BenchError
from qvla.bench.turns import Case, Figure, in_turns
from qvla.captioning.contenders import title_of
from qvla.captioning.decoding import Decoding
from qvla.captioning.desk import answer_now
from qvla.captioning.engine import caption, stream
from qvla.captioning.generation import Generation
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import CAPTION_PREFIX
from qvla.evaluation.predictions import FIRST_BATCH
from qvla.records import store as records
from qvla.settings import Settings

CLIENTS = 8
GRAPH_BATCHES = (1, 64)

Times = Mapping[str, tuple[float, ...]]  # of every case, seconds by turn


@dataclass(frozen=True)
class Bench:
    """What the parts measure with."""

    lineup: Lineup
    variants: tuple[str, ...]
    images: tuple[Image.Image, ...]
    repeats: int
    new_tokens: int
    device: torch.device

    def photo(self, turn: int) -> Image.Image:
        return self.images[turn % len(self.images)]

    def fixed(self, name: str, new_tokens: int | None = None) -> Decoding:
        """Captions of one length, so that all do equal work."""
        return arrangements.fixed_length(self.lineup.shared(name), new_tokens or self.new_tokens)

    def times(self, cases: Mapping[str, Case]) -> Times:
        return in_turns(cases, self.repeats, self.device)


def tokens(bench: Bench) -> list[Figure]:
    """A token at batch 1: captions of two lengths, whose difference leaves the prompt out."""
    longer = 1 + bench.new_tokens

    def ours(name: str, length: int) -> Case:
        shared, decoding = bench.lineup.shared(name), bench.fixed(name, length)
        return lambda turn: answer_now(
            Generation(shared, [name], [bench.photo(turn)], decoding, CAPTION_PREFIX)
        )

    def theirs(name: str, length: int) -> Case:
        shared, decoding = bench.lineup.shared(name), bench.fixed(name, length)
        return lambda turn: arrangements.caption_by_generate(
            shared, name, [bench.photo(turn)], decoding
        )

    cases: dict[str, Case] = {}
    for name in bench.variants:
        for length in (1, longer):
            cases[f"{name}/ours/{length}"] = ours(name, length)
            cases[f"{name}/generate/{length}"] = theirs(name, length)
    times = bench.times(cases)

    def token(way: str) -> tuple[float, ...]:
        pairs = zip(times[f"{way}/{longer}"], times[f"{way}/1"], strict=True)
        return tuple((long - short) / bench.new_tokens for long, short in pairs)

    return [
        Figure(
            f"{name}/token_to_generate_ratio",
            f"{title_of(name)}, a token",
            "generate",
            "s",
            token(f"{name}/ours"),
            token(f"{name}/generate"),
        )
        for name in bench.variants
    ]


def clients(bench: Bench) -> list[Figure]:
    """Captions a second of clients that ask at once, a thread each, against one that asks alone."""
    decoding = bench.fixed(bench.variants[0])

    def ask(number: int) -> object:
        return caption(bench.lineup, [bench.photo(number)], bench.variants, decoding)

    def together(turn: int) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, range(CLIENTS)))

    def one(turn: int) -> None:
        for number in range(CLIENTS):
            ask(number)

    times = bench.times({"together": together, "one": one})
    captions = CLIENTS * len(bench.variants)
    rates = {name: tuple(captions / one for one in own) for name, own in times.items()}
    words = f"{CLIENTS} clients, captions a second", "one client"
    return [Figure("clients_rate_ratio", *words, "/s", rates["together"], rates["one"])]


def panes(bench: Bench) -> list[Figure]:
    """All panes against the first alone, and the page's stream against the command line's call."""
    first = bench.variants[0]
    decoding = bench.fixed(first)

    def called(names: Sequence[str]) -> Callable[[int], object]:
        return lambda turn: caption(bench.lineup, [bench.photo(turn)], names, decoding)

    def streamed(turn: int) -> object:
        return list(stream(bench.lineup, bench.photo(turn), bench.variants, decoding))

    cases = {"panes": called(bench.variants), "first": called([first]), "stream": streamed}
    times = bench.times(cases)
    count, one = f"{len(bench.variants)} panes", f"{title_of(first)} alone"
    return [
        Figure("panes_to_one_ratio", count, one, "s", times["panes"], times["first"]),
        Figure("stream_to_call_ratio", "stream", "call", "s", times["stream"], times["panes"]),
    ]


def evaluation(bench: Bench) -> list[Figure]:
    """All photos with all contenders, to the ends of their captions, against `generate`: a photo at
    a time, and in batches as large. There each contender looks at every photo for itself.
    """
    decoding, images = Decoding(), bench.images
    size = FIRST_BATCH[bench.device.type]

    def ours(turn: int) -> None:
        for start in range(0, len(images), size):
            caption(bench.lineup, images[start : start + size], bench.variants, decoding)

    def theirs(at_once: int) -> Case:
        def by_generate(turn: int) -> None:
            for name in bench.variants:
                shared = bench.lineup.shared(name)
                arrangements.caption_by_generate(shared, name, images, decoding, at_once)

        return by_generate

    times = bench.times({"ours": ours, "alone": theirs(1), "batches": theirs(size)})
    words = f"evaluation of {len(images)} photos"
    return [
        Figure(f"evaluation_to_generate{end}_ratio", words, other, "s", times["ours"], times[key])
        for key, end, other in (
            ("alone", "", "generate, a photo at a time"),
            ("batches", "_in_batches", f"generate in batches of {size}"),
        )
    ]


PARTS: dict[str, Callable[[Bench], list[Figure]]] = {
    "token": tokens,
    "clients": clients,
    "panes": panes,
    "evaluation": evaluation,
}
GRAPHS = "graphs"  # further, on CUDA


def run(options: argparse.Namespace, settings: Settings) -> tuple[str, records.Record]:
    """The suite as `qvla bench` runs it. Raises BenchError for counts or parts that do not work."""
    for name in ("photos", "repeats", "new_tokens"):
        if getattr(options, name) < 1:
            raise BenchError(f"--{name.replace('_', '-')} must be at least 1.")
    settings = arrangements.made_explicit(settings)
    variants = arrangements.chosen_variants(options.variant, settings)
    on_cuda = settings.device.startswith("cuda")
    known = [*PARTS, GRAPHS] if on_cuda else list(PARTS)
    asked: Sequence[str] = known
    if options.parts is not None:
        asked = arrangements.some_of(options.parts, known, "--parts")
    paths, images = arrangements.open_photos(options.data, options.photos, settings)
    lineup = arrangements.load_lineup(settings, variants)
    device = torch.device(settings.device)
    bench = Bench(lineup, variants, tuple(images), options.repeats, options.new_tokens, device)
    figures = [figure for part in asked if part != GRAPHS for figure in PARTS[part](bench)]
    numbers: dict[str, int | float | None] = {}
    for figure in figures:
        stem = figure.name.removesuffix("_ratio")
        numbers[figure.name] = figure.ratio
        numbers[f"{stem}_lowest_ratio"], numbers[f"{stem}_highest_ratio"] = figure.spread
        unit = {"s": "seconds", "/s": "per_second"}[figure.unit]
        numbers[f"{stem}/ours_{unit}"] = median(figure.values)
        numbers[f"{stem}/other_{unit}"] = median(figure.others)
    shared = {name: lineup.shared(name) for name in variants}
    protocol: dict[str, JsonValue] = {
        "ratios": "median of all turns against median; lowest and highest are of single turns",
        "order": "in turns, after one warm-up each",
        "parts": list(asked),
        "repeats": options.repeats,
        "new_tokens": options.new_tokens,
        "clients": CLIENTS,
        "device": settings.device,
        "precision": settings.precision,
        "computes_in": {name: one.loaded.computes_in for name, one in shared.items()},
        "graphs": {name: one.graphs.state for name, one in shared.items()},
        "threads": torch.get_num_threads(),
    }
    del lineup, shared, bench
    if GRAPHS in asked:
        numbers |= _graphs(options, settings, variants)
    record = records.new_record(
        "bench/engine",
        model=settings.model_name,
        variants=variants,
        data=records.Data(
            name=options.data.name,
            items=len(images),
            fingerprint=records.fingerprint(paths),
        ),
        numbers=numbers,
        protocol=protocol,
    )
    return table(figures, record), record


def _graphs(
    options: argparse.Namespace, settings: Settings, variants: Sequence[str]
) -> dict[str, int | float | None]:
    """The latency suite's numbers with CUDA graphs and without, under `graphs/auto` and `/off`."""
    plan = latency.Plan(
        options.data, GRAPH_BATCHES, options.photos, options.repeats, options.new_tokens
    )
    numbers: dict[str, int | float | None] = {}
    for way in ("auto", "off"):
        chosen = settings.model_copy(update={"graphs": way})
        found = latency.measure(plan, chosen, variants).numbers
        numbers |= {f"graphs/{way}/{name}": value for name, value in found.items()}
    return numbers


def table(figures: Sequence[Figure], record: records.Record) -> str:
    """The ratios as text, with what they were measured on."""
    machine = ", ".join(record.hardware.accelerators) or record.hardware.processor
    protocol = record.protocol
    computes = ", ".join(
        f"{title_of(name)} {dtype}" for name, dtype in protocol["computes_in"].items()
    )
    lines = [
        f"{record.model} on {protocol['device']} ({machine}), {protocol['threads']} threads; "
        f"computing in: {computes}",
        f"{record.items} photos, {protocol['new_tokens']} tokens a caption (but to its end in the "
        f"evaluation), medians of {protocol['repeats']} turns",
        "",
    ]
    for figure in figures:
        low, high = figure.spread
        sides = (f"{median(side):.4g} {figure.unit}" for side in (figure.values, figure.others))
        ours, other = sides
        lines.append(
            f"{figure.ours:34}{ours:>12}  {figure.other:32}{other:>12}{figure.ratio:8.3f}"
            f"   {low:.3f} to {high:.3f}"
        )
    for name in sorted(name for name in record.numbers if name.startswith("graphs/")):
        if name.endswith(("batch_1/token_seconds", "batch_64/images_per_second")):
            lines.append(f"{name:60}{record.number(name):.5g}")
    return "\n".join(lines)
