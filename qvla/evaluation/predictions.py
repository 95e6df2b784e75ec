"""Captions of many photos in batches, kept as they come, so that what was cut off goes on later."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from qvla.captioning.bank import all_known
from qvla.captioning.bases import device_of, precision_of
from qvla.captioning.contenders import contenders_of
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption
from qvla.captioning.generation import CaptioningError, OutOfMemoryError
from qvla.captioning.lineup import Lineup
from qvla.captioning.options import load_lineup
from qvla.captioning.prompts import CAPTION_PREFIX, prompt_of
from qvla.data.imagery import open_image
from qvla.data.risc import Example, fingerprint
from qvla.errors import QvlaError
from qvla.evaluation import prediction_log
from qvla.evaluation.prediction_log import Prediction
from qvla.files import write_json
from qvla.hub import local_folder
from qvla.models.adapter_files import FILES, AdapterError
from qvla.models.checkpoint import MODEL_FILES, BackboneError
from qvla.progress import Progress, progress
from qvla.records import store as records
from qvla.settings import Settings

log = logging.getLogger(__name__)

FIRST_BATCH = {"cpu": 32, "cuda": 128}  # photos at once until memory runs out
SHAPING_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")  # captions hang on them
# Of this project; all but what only scores, shows or trains.
SHAPING_CODE = (
    *("data/*.py", "methods/**/*.py", "models/**/*.py", "captioning/*.py"),
    *("faults.py", "settings.py", "evaluation/predictions.py"),
)
BLOCK = 2**20  # bytes read at once for a fingerprint


@dataclass(frozen=True)
class Plan:
    """All that decides which captions come out: runs with equal plans share theirs.

    Weights count by their contents, not by their names. All contenders count, whichever are asked
    for, so that one asked for later joins those that are there. Batch sizes do not.
    `code` is a hash of our own: captions made before a change of it may not be made so again.
    """

    split: str
    data: str
    contenders: dict[str, dict[str, str | None]]  # name -> base, precision and adapter
    prefix: str
    decoding: dict[str, Any]
    nf4_embeddings: str
    device: str
    versions: dict[str, str]
    code: str

    @property
    def folder(self) -> str:
        """The name of the folder of these captions: the split and a hash of the plan."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', self.split) or 'photos'}-{digest[:12]}"


@dataclass
class Predictions:
    """The captions of each variant by photo, in the examples' order, and how they came about.

    `made` counts the photos captioned by this run and `seconds` is what these took, by variant; the
    rest was there before. `unreadable` says of each photo that could not be opened why.
    `log_probabilities` are those of the captions that have one, see `captioning.generation`.
    """

    folder: Path
    plan: Plan
    captions: dict[str, dict[str, str]]
    batch_size: int
    made: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    log_probabilities: dict[str, dict[str, float]] = field(default_factory=dict)

    def file(self, variant: str) -> Path:
        return self.folder / f"{variant}.jsonl"


def plan_for(
    settings: Settings,
    examples: Sequence[Example],
    decoding: Decoding | None = None,
    prefix: str = CAPTION_PREFIX,
    variants: Sequence[str] = (),
) -> Plan:
    """The plan of captioning these photos; fetches weights that are named by a hub id. It is of all
    contenders, and of those `variants` that are tasks of the bank.

    Raises BackboneError or AdapterError when weights are not there.
    """
    device = device_of(settings.device)
    contents = cache(_contents)  # most contenders share a base
    answering = list(contenders_of(settings))
    own = {one.name for one in answering}
    if not own >= set(variants):  # only then is the bank read
        known = all_known(settings)
        answering += [known[name] for name in variants if name in known and name not in own]
    contenders = {
        one.name: {
            "base": contents(one.base, MODEL_FILES, BackboneError),
            "precision": precision_of(one.precision, device).value,
            "adapter": one.adapter and contents(one.adapter, FILES, AdapterError),
        }
        for one in answering
    }
    versions = records.versions()
    return Plan(
        split="-".join(dict.fromkeys(example.split for example in examples)),
        data=fingerprint(examples),
        contenders=contenders,
        prefix=prefix,
        decoding=asdict(decoding or Decoding()),
        nf4_embeddings=settings.nf4_embeddings,
        device=device.partition(":")[0],
        versions={name: versions[name] for name in SHAPING_PACKAGES if name in versions},
        code=_hash(Path(__file__).parents[1], SHAPING_CODE),
    )


def predict(
    settings: Settings,
    examples: Sequence[Example],
    variants: Sequence[str],
    *,
    out: Path,
    decoding: Decoding | None = None,
    prefix: str = CAPTION_PREFIX,
    batch_size: int | None = None,
    lineup: Lineup | None = None,
) -> Predictions:
    """Captions all photos with all variants, but for what an earlier run has captioned already.

    Captions lie in a folder of `out`, a file a variant, and are written batch by batch. Variants on
    one backbone share their batches. Without a `batch_size` a large one is tried first; whenever
    memory runs out it is halved and the photos are taken again. Weights are loaded only when there
    is something to caption, unless a `lineup` is given. Photos that cannot be opened are told of
    and left out; image names must be unique.

    Raises CaptioningError when a variant is not available or not even one photo fits into memory,
    and PredictionLogError when the folder cannot be used or another process is at work in it.
    """
    decoding = decoding or Decoding()
    absent = {
        example.name: f"There is no file at {example.image}."
        for example in examples
        if not example.image.is_file()
    }
    examples = [example for example in examples if example.name not in absent]
    for name, reason in absent.items():
        log.error("%s is left out: %s", name, reason)
    plan = plan_for(settings, examples, decoding, prefix, variants)
    result = Predictions(
        folder=Path(out) / plan.folder,
        plan=plan,
        captions={},
        batch_size=batch_size or FIRST_BATCH[plan.device],
        made=dict.fromkeys(variants, 0),
        seconds=dict.fromkeys(variants, 0.0),
        unreadable=absent,
    )
    if _missing(result, examples, variants):
        with prediction_log.held(result.folder):
            _begin(result, variants)
            missing = _missing(result, examples, variants)  # another process may have been here
            todo = sum(len(group) for group in missing.values())
            with progress(len(examples), "Captioning photos", len(examples) - todo) as bar:
                run = _Run(settings, variants, decoding, prefix, lineup, result, bar)
                for names, group in missing.items():
                    run.caption(names, group)
    for name in variants:
        rows = {row.image: row for row in prediction_log.read(result.file(name))}
        said = [rows[example.name] for example in examples if example.name in rows]
        result.captions[name] = {row.image: row.caption for row in said}
        result.log_probabilities[name] = {
            row.image: row.log_probability for row in said if row.log_probability is not None
        }
    return result


@dataclass
class _Run:
    """One run through what is missing; the batch size and the weights stay from group to group."""

    settings: Settings
    variants: Sequence[str]
    decoding: Decoding
    prefix: str
    lineup: Lineup | None
    result: Predictions
    bar: Progress

    def caption(self, names: tuple[str, ...], examples: Sequence[Example]) -> None:
        """Captions these photos with these variants, batch by batch."""
        photos = self._photos(examples)
        waiting: list[tuple[Example, Image.Image]] = []
        while True:
            size = self.result.batch_size
            waiting += islice(photos, max(0, size - len(waiting)))
            batch = waiting[:size]
            if not batch:
                return
            try:
                self._batch(names, batch)
            except OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self.result.batch_size = len(batch) // 2
                log.warning(
                    "Memory ran out with %d photos at once; going on with %d.",
                    len(batch),
                    self.result.batch_size,
                )
                continue
            waiting = waiting[len(batch) :]

    def _batch(self, names: tuple[str, ...], batch: Sequence[tuple[Example, Image.Image]]) -> None:
        images = [image for _, image in batch]
        prompts = [prompt_of(example.question, self.prefix) for example, _ in batch]
        answers = caption(self._weights(), images, names, self.decoding, prompts)
        for name in names:
            rows = [
                Prediction(
                    example.name, example.source, answer[name].text, answer[name].log_probability
                )
                for (example, _), answer in zip(batch, answers, strict=True)
            ]
            prediction_log.append(self.result.file(name), rows)
            self.result.made[name] += len(rows)
            # The last token of the last caption, the batch having begun at 0.
            self.result.seconds[name] += max(answer[name].seconds for answer in answers)
        self.bar.step(len(batch))

    def _weights(self) -> Lineup:
        if self.lineup is None:
            self.lineup = load_lineup(self.settings, self.variants)
            for name in self.variants:
                variant = self.lineup.variant(name)
                if not variant.available:
                    raise CaptioningError(f"{variant.title} is not available: {variant.reason}")
        return self.lineup

    def _photos(self, examples: Sequence[Example]) -> Iterator[tuple[Example, Image.Image]]:
        """The photos that can be opened, one after the other; one image for all that is asked
        about a photo in a row.
        """
        limits = {
            "max_bytes": self.settings.max_upload_bytes,
            "max_pixels": self.settings.max_pixels,
        }
        last: tuple[Path, Image.Image] | None = None
        for example in examples:
            try:
                if last is None or last[0] != example.image:
                    last = example.image, open_image(example.image, **limits)
                yield example, last[1]
            except QvlaError as error:
                log.error("%s is left out: %s", example.name, error)
                self.result.unreadable[example.name] = str(error)
                self.bar.step()


def _missing(
    result: Predictions, examples: Sequence[Example], variants: Sequence[str]
) -> dict[tuple[str, ...], list[Example]]:
    """The photos yet to be captioned, by the variants that they lack."""
    there = {
        name: {row.image for row in prediction_log.read(result.file(name))} for name in variants
    }
    groups: dict[tuple[str, ...], list[Example]] = {}
    for example in examples:
        lacking = tuple(name for name in variants if example.name not in there[name])
        if lacking:
            groups.setdefault(lacking, []).append(example)
    return groups


def _begin(result: Predictions, variants: Sequence[str]) -> None:
    """Makes the held folder ready to be written to."""
    note = result.folder / "plan.json"
    try:
        if not note.exists():
            begun = {"begun": datetime.now(UTC).isoformat(), "commit": records.commit()}
            write_json(note, {**asdict(result.plan), **begun})
        for name in variants:
            prediction_log.cut_half_line(result.file(name))
    except OSError as error:
        raise prediction_log.PredictionLogError(
            f"{result.folder} cannot be written: {error.strerror}."
        ) from error


def _contents(name: str, patterns: Sequence[str], fault: type[QvlaError]) -> str:
    """A hash of the files that make up weights, by folder or hub id."""
    return _hash(local_folder(name, patterns, fault), patterns)


def _hash(folder: Path, patterns: Sequence[str]) -> str:
    """SHA-256 over names and contents of the files of a folder that match."""
    files = {path for pattern in patterns for path in folder.glob(pattern)}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        own = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                own.update(block)
        digest.update(own.digest())
    return digest.hexdigest()
