"""What evaluating costs: batches against single photos, going on after a break, and scoring.

Of use on any machine without a GPU. At least 64 photos are captioned: with fewer in the data they
come round again, and with fewer captions than scoring needs, more are made of the words that there
are. Captions have a fixed length, for the sake of equal work.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median

import torch

from qvla.bench import arrangements
from qvla.bench.arrangements import BenchError
from qvla.bench.turns import Case, Figure, in_turns
from qvla.captioning.contenders import VARIANTS
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption
from qvla.captioning.lineup import Lineup
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.data.risc import Example
from qvla.evaluation import prediction_log
from qvla.evaluation.prediction_log import Prediction
from qvla.evaluation.predictions import FIRST_BATCH, Predictions, predict
from qvla.records import store as records
from qvla.scoring import METRICS, forget, score
from qvla.settings import Settings

PHOTOS = 64
SCORED, REFERENCES = 4454, 5  # the report's test photos, and the captions that RISC has of each
RESAMPLES = 1000
TIMES_AS_FAST, SCORING_SECONDS = 5, 5  # what is aimed for


def run(options: argparse.Namespace, settings: Settings) -> tuple[str, records.Record]:
    """The suite as `qvla bench` runs it. Raises BenchError for data without photos or captions."""
    for name in ("repeats", "new_tokens"):
        if getattr(options, name) < 1:
            raise BenchError(f"--{name.replace('_', '-')} must be at least 1.")
    settings = arrangements.made_explicit(settings)
    found = [example for example in read_examples(options.data) if example.image.is_file()]
    if not any(example.references for example in found):
        raise BenchError(f"There are no photos with captions in {options.data}.")
    scoring, tokenizer = _scoring(*captions_to_score(found), options.repeats)
    begin = time.perf_counter()
    lineup = arrangements.load_lineup(settings)
    loading = time.perf_counter() - begin
    decoding = arrangements.fixed_length(lineup.shared("base"), options.new_tokens)
    with tempfile.TemporaryDirectory(prefix="qvla-bench-") as name:
        folder = Path(name)
        examples = _photos(found, max(options.photos, PHOTOS), folder / "photos")
        times = _evaluations(settings, lineup, examples, decoding, folder, options.repeats)
        record = _record(options, settings, examples, times | scoring, loading, tokenizer)
    return table(record), record


def captions_to_score(
    examples: Sequence[Example],
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """References of as many photos as the report's test set, and a caption for each.

    Data with enough photos and captions gives both: a photo's caption is the first one of another
    photo. From less, sentences are made of the words of all its captions, in their proportions and
    at their lengths, so that no two are alike and nothing is saved by having seen one before.
    """
    full = [example for example in examples if len(example.references) >= REFERENCES]
    if len(full) >= SCORED:
        chosen = full[:SCORED]
        truth = {example.name: list(example.references[:REFERENCES]) for example in chosen}
        others = islice(cycle(chosen), 1, SCORED + 1)
        return truth, {name: other.references[0] for name, other in zip(truth, others, strict=True)}
    texts = [text.split() for example in examples for text in example.references]
    words = [word for text in texts for word in text]
    draw = random.Random(0)

    def sentence() -> str:
        return " ".join(draw.choices(words, k=len(draw.choice(texts))))

    names = [f"{number}.jpg" for number in range(SCORED)]
    return (
        {name: [sentence() for _ in range(REFERENCES)] for name in names},
        {name: sentence() for name in names},
    )


def _photos(found: Sequence[Example], number: int, folder: Path) -> list[Example]:
    """So many photos under names of their own; those of the data come round again if need be."""
    folder.mkdir()
    photos = []
    for index, example in enumerate(islice(cycle(found), number)):
        place = folder / f"{index:05d}-{example.name}"
        shutil.copy(example.image, place)
        photos.append(replace(example, image=place, name=place.name))
    return photos


def _evaluations(
    settings: Settings,
    lineup: Lineup,
    examples: Sequence[Example],
    decoding: Decoding,
    folder: Path,
    repeats: int,
) -> dict[str, tuple[float, ...]]:
    """All photos with all variants: in batches, one by one, from the middle on, and not at all."""
    places = (folder / f"turn-{number}" for number in count())
    done = _predict(settings, lineup, examples, decoding, folder / "done")

    def whole(turn: int) -> None:
        _predict(settings, lineup, examples, decoding, next(places))

    def second_half(turn: int) -> None:
        place = next(places)
        (place / done.folder.name).mkdir(parents=True)
        for name in VARIANTS:
            rows = prediction_log.read(done.file(name))[: len(examples) // 2]
            prediction_log.append(place / done.folder.name / done.file(name).name, rows)
        _predict(settings, lineup, examples, decoding, place)

    def nothing(turn: int) -> None:
        _predict(settings, lineup, examples, decoding, folder / "done")

    def loop(turn: int) -> None:
        place = next(places)
        place.mkdir()
        for example in examples:
            image = open_image(example.image)
            [answer] = caption(lineup, [image], VARIANTS, decoding)
            for name in VARIANTS:
                row = Prediction(example.name, example.source, answer[name].text)
                prediction_log.append(place / f"{name}.jsonl", [row])

    cases: dict[str, Case] = {
        "evaluation": whole,
        "second_half": second_half,
        "finished": nothing,
        "loop": loop,
    }
    return in_turns(cases, repeats, torch.device(settings.device))


def _predict(
    settings: Settings, lineup: Lineup, examples: Sequence[Example], decoding: Decoding, out: Path
) -> Predictions:
    return predict(settings, examples, VARIANTS, out=out, decoding=decoding, lineup=lineup)


def _scoring(
    references: Mapping[str, Sequence[str]],
    candidates: Mapping[str, str],
    repeats: int,
) -> tuple[dict[str, tuple[float, ...]], str]:
    """Seconds of scoring what was not scored before, and whose tokens they are."""
    used: list[str] = []

    def scoring(turn: int) -> None:
        forget()
        scored = score(references, candidates, "standard", metrics=METRICS, resamples=RESAMPLES)
        used.append(scored.tokenizer)

    return in_turns({"scoring": scoring}, repeats, torch.device("cpu")), used[-1]


def _record(
    options: argparse.Namespace,
    settings: Settings,
    examples: Sequence[Example],
    times: Mapping[str, tuple[float, ...]],
    loading: float,
    tokenizer: str,
) -> records.Record:
    batched = Figure(
        "evaluation_to_loop_ratio",
        "evaluation",
        "one-photo loop",
        "s",
        times["evaluation"],
        times["loop"],
    )
    whole = median(times["evaluation"])
    rest = 1 - (len(examples) // 2) / len(examples)
    numbers: dict[str, float] = {
        batched.name: batched.ratio,
        f"{batched.name}/lowest": batched.spread[0],
        f"{batched.name}/highest": batched.spread[1],
        "resume_overhead_ratio": median(times["second_half"]) / whole - rest,
        "finished_to_evaluation_ratio": median(times["finished"]) / whole,
        "loading_seconds": loading,
    }
    for name, seconds in times.items():
        key = f"{name}_seconds"
        numbers[key] = median(seconds)
        numbers[f"{key}/lowest"], numbers[f"{key}/highest"] = min(seconds), max(seconds)
    return records.new_record(
        "bench/cpu",
        model=settings.model_name,
        variants=VARIANTS,
        data=records.Data(
            name=Path(options.data).name,
            items=len(examples),
            fingerprint=records.fingerprint(example.image for example in examples),
        ),
        numbers=numbers,
        protocol={
            "order": "in turns, after one warm-up each",
            "repeats": options.repeats,
            "new_tokens": options.new_tokens,
            "batch_size": FIRST_BATCH[settings.device],
            "resume_overhead": "second half of the photos, less its share of the whole, "
            "over the whole; loading the weights, which every start pays, is apart",
            "scoring": f"{SCORED} captions, {REFERENCES} references each, {', '.join(METRICS)}, "
            f"intervals from {RESAMPLES} resamples, nothing remembered",
            "tokenizer": tokenizer,
            "device": settings.device,
            "precision": settings.precision,
            "threads": torch.get_num_threads(),
        },
    )


def table(record: records.Record) -> str:
    """The figures with their aims, one a line."""
    number, protocol = record.number, record.protocol
    ratio = "evaluation_to_loop_ratio"
    rows = [
        (
            f"evaluation in batches of {protocol['batch_size']}, against a one-photo loop",
            f"{1 / number(ratio):.1f} times as fast",
            f"{1 / number(f'{ratio}/highest'):.1f} to {1 / number(f'{ratio}/lowest'):.1f}",
            f"aim: {TIMES_AS_FAST:g}",
        ),
        (
            "starting again in the middle",
            f"{number('resume_overhead_ratio'):+.1%} of the whole",
            f"{number('second_half_seconds'):.2f} s, whole {number('evaluation_seconds'):.2f} s",
            "",
        ),
        (
            "starting again when all is done",
            f"{number('finished_to_evaluation_ratio'):.1%} of the whole",
            f"{number('finished_seconds') * 1000:.0f} ms",
            "",
        ),
        (
            f"scoring {SCORED:,} captions, {REFERENCES} references each",
            f"{number('scoring_seconds'):.2f} s",
            f"{number('scoring_seconds/lowest'):.2f} to {number('scoring_seconds/highest'):.2f}",
            f"aim: {SCORING_SECONDS:g} s",
        ),
        ("loading the weights, at every start", f"{number('loading_seconds'):.2f} s", "", ""),
    ]
    machine = ", ".join(record.hardware.accelerators) or record.hardware.processor
    lines = [
        f"{record.model} in {protocol['precision']} and nf4 on {protocol['device']} ({machine}), "
        f"{protocol['threads']} threads",
        f"{record.items} photos with all variants, {protocol['new_tokens']} tokens a caption, "
        f"medians of {protocol['repeats']} turns; PTB tokens by {protocol['tokenizer']}",
        "",
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(4)]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)
