"""A sweep: many recipes trained and evaluated one after the other, each kept as a record.

A run's record is what says that it is done. Until then its adapter or its checkpoints lie in the
sweep's folder, and the same command goes on from there, however it was ended.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from qvla import locks
from qvla.bench.sweep_config import EvaluationPlan, Run, Sweep, SweepError
from qvla.bench.sweep_results import WHAT
from qvla.captioning.bases import device_of
from qvla.captioning.decoding import Decoding
from qvla.data.examples import read_examples
from qvla.errors import QvlaError
from qvla.evaluation.evaluate import Evaluation, Scoring, evaluate
from qvla.faults import first_line
from qvla.files import parse_json, write_json
from qvla.models.families import families
from qvla.records import store as records
from qvla.records.measure import give_back_memory, held_memory, measured
from qvla.records.store import Kept
from qvla.scoring import METRICS
from qvla.settings import Settings, load_settings
from qvla.tuning import checkpoints
from qvla.tuning.attempt import Ended
from qvla.tuning.run_folder import CARD_FILE
from qvla.tuning.training import train
from qvla.words import counted

log = logging.getLogger(__name__)

CONTENDER = "run"  # what the evaluation calls the one that answers
USAGE_FILE = "usage.json"  # in a run's folder: what training took, so that it is not lost
PROTOCOL = "standard"
UNTRAINED = {"trained_parameters": 0, "saved_bytes": 0, "train_steps": 0}

Numbers = dict[str, "int | float | None"]


@dataclass(frozen=True)
class Done:
    """A run with its record: `failed` is the sentence that stopped it, None when it is whole."""

    run: Run
    kept: Kept

    @property
    def failed(self) -> str | None:
        return self.kept.record.protocol.get("failed")


def run_sweep(
    sweep: Sweep, *, out: Path, records_folder: Path, retry_failed: bool = False
) -> list[Done]:
    """Does all runs that have no record yet, and returns every run with its record, in order.

    A run that fails is recorded with its sentence and the next one begins; it is tried again only
    if `retry_failed`. Raises SweepError when another process is at work in `out`, and Ended when
    SIGTERM asked for the end.
    """
    families()  # imported before anything is measured
    with _held(out):
        there = {done.run.key: done for done in finished(sweep, records_folder)}
        for number, run in enumerate(sweep.runs, start=1):
            before = there.get(run.key)
            if before is not None and not (before.failed and retry_failed):
                continue
            log.info("Run %d of %d: %s.", number, len(sweep.runs), run.label)
            record = _record(sweep, run, out, records_folder)
            done = Done(run, Kept(records.write(record, records_folder), record))
            there[run.key] = done
            log.info("%s", done.failed or _in_words(record))
    return [there[run.key] for run in sweep.runs]


def finished(sweep: Sweep, records_folder: Path) -> list[Done]:
    """The runs that have a record, the newest of each, in the sweep's order."""
    newest = {
        kept.record.protocol.get("key"): kept for kept in records.find(WHAT, [records_folder])
    }
    return [Done(run, newest[run.key]) for run in sweep.runs if run.key in newest]


def _record(sweep: Sweep, run: Run, out: Path, records_folder: Path) -> records.Record:
    """Trains and evaluates one run, or records why that cannot be."""
    numbers: Numbers = {}
    protocol: dict[str, Any] = {
        "sweep": sweep.name,
        "label": run.label,
        "key": run.key,
        "recipe": {**run.recipe.card(), **({} if run.trains else {"method": run.label})},
        "evaluation": sweep.evaluation.model_dump(mode="json"),
        "device": device_of(run.recipe.device),
        "threads": torch.get_num_threads(),
        "train_seconds": "steps by the clock, without loading, at whatever else the machine did; "
        "train_processor_seconds is this process's own time, and unknown of a resumed run",
        "train_peak_bytes": "the most in training above what the process held before, weights "
        "included",
    }
    files: Mapping[str, str] = {}
    series: dict[str, list[float]] = {}
    data = None
    try:
        if run.trains:
            numbers |= _trained(run)
            card = parse_json((run.recipe.output / CARD_FILE).read_bytes())
            curve = [row for row in card["curve"] if "loss" in row]
            for name in ("step", "loss"):
                series[f"training/{name}"] = [float(row[name]) for row in curve]
            protocol["training_data"] = card["data"]
        else:
            numbers |= UNTRAINED
        evaluation = _evaluated(run, sweep.evaluation, out, records_folder)
        numbers |= _scores(evaluation)
        data, files = evaluation.record.data, evaluation.record.files
        protocol["precision"] = evaluation.record.protocol["precision"]
    except Ended:
        raise
    except Exception as error:
        log.debug("Where it came from:", exc_info=True)
        own = isinstance(error, QvlaError)
        protocol["failed"] = str(error) if own else f"A fault: {first_line(error)}."
    finally:
        gc.collect()
        give_back_memory()
    return records.new_record(
        WHAT,
        model=run.recipe.model_name,
        variants=(run.label,),
        data=data,
        numbers=numbers,
        series=series,
        files=files,
        protocol=protocol,
    )


def _trained(run: Run) -> Numbers:
    """What training took and made; trains only what is not there already."""
    recipe = run.recipe
    note = recipe.output / USAGE_FILE
    if not note.is_file():
        resumes = checkpoints.find(recipe.checkpoints).checkpoint is not None
        device = torch.device(device_of(recipe.device))
        before = held_memory(device)
        own_time = time.process_time()
        with measured(device) as usage:
            # A folder without its note was made by a run that was cut off just then.
            card = train(recipe, resume=resumes, overwrite=True).card
        peak = None if before is None or usage.peak_bytes is None else usage.peak_bytes - before
        photos = card["steps"] * recipe.batch_size * recipe.gradient_accumulation
        speed = card["images_per_second"]
        first = card["resumed_from_step"] is None
        write_json(
            note,
            {
                "trained_parameters": card["parameters"]["trained"],
                "trained_percent": card["parameters"]["adapter_percent"],
                "saved_bytes": sum(
                    file.stat().st_size for file in recipe.output.glob("*.safetensors")
                ),
                "train_steps": card["steps"],
                "train_seconds": photos / speed if speed else None,
                "train_processor_seconds": time.process_time() - own_time if first else None,
                "train_peak_bytes": peak,
            },
        )
    return dict(parse_json(note.read_bytes()))


def _evaluated(run: Run, plan: EvaluationPlan, out: Path, records_folder: Path) -> Evaluation:
    """The run's own captions, scored."""
    examples = read_examples(run.recipe.data, splits=[plan.split], sources=run.recipe.sources)
    return evaluate(
        _settings(run),
        examples,
        [CONTENDER],
        data=run.recipe.data.name,
        out=out / "captions",
        records_folder=records_folder,
        limit=plan.photos,
        decoding=Decoding(max_new_tokens=plan.max_new_tokens),
        prefix=run.recipe.prefix,
        scoring=Scoring(protocols=(PROTOCOL,), metrics=METRICS, resamples=plan.resamples),
    )


def _settings(run: Run) -> Settings:
    """A line-up of one: what was trained, on its base in the precision that a visitor gets."""
    recipe = run.recipe
    is_adapter = recipe.kind.method.is_adapter
    contender: dict[str, Any] = {
        "name": CONTENDER,
        "title": recipe.output.name,
        "base": recipe.model if is_adapter or not run.trains else str(recipe.output),
        "precision": "nf4" if recipe.kind.quantised and run.trains else "auto",
    }
    if is_adapter and run.trains:
        contender["adapter"] = str(recipe.output)
    file = recipe.output.with_name(f"{recipe.output.name}.lineup.yaml")
    file.write_text(yaml.safe_dump([contender]), encoding="utf-8")
    return load_settings(model=recipe.model, lineup=file, device=recipe.device)


def _scores(evaluation: Evaluation) -> Numbers:
    """The metrics of all photos together, with the ends of their intervals."""
    stem = f"{PROTOCOL}/{CONTENDER}/all/"
    numbers = evaluation.record.numbers
    return {
        name.removeprefix(stem): value for name, value in numbers.items() if name.startswith(stem)
    }


def _in_words(record: records.Record) -> str:
    own = record.numbers
    return (
        f"CIDEr {own['CIDEr']:.3f} ({own['CIDEr/low']:.3f} to {own['CIDEr/high']:.3f}) with "
        f"{counted(int(record.number('trained_parameters')), 'trained parameter')}."
    )


@contextmanager
def _held(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = locks.take(out / "lock")
    except OSError as error:
        raise SweepError(
            f"{out} cannot be written ({error.strerror}): name another folder with --out."
        ) from error
    if lock is None:
        raise SweepError(
            f"Another process is at this sweep in {out}: wait for it, or name another --out."
        )
    with lock:
        yield
