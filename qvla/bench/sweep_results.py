"""What sweeps have found: runs that differ by their seed alone are one choice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from qvla.bench.power_law import PowerLaw, fit
from qvla.records.store import Kept, Record

WHAT = "sweep run"  # of the records
METRIC = "CIDEr"
WITH_RANK = ("rank ", "lora alpha ")  # parts of a name that change with the rank


@dataclass(frozen=True)
class Choice:
    """One recipe as measured with one seed or several, all on the same photos and machine."""

    name: str  # its label without the seed
    kind: str  # the name that a recipe asks for it by, such as `lora`
    recipe: dict[str, Any]
    kept: tuple[Kept, ...]

    def mean(self, number: str) -> float | None:
        """Of all seeds, as far as it was measured; None when it never was."""
        found = [kept.record.numbers.get(number) for kept in self.kept]
        known = [value for value in found if value is not None]
        return mean(known) if known else None

    @property
    def score(self) -> float:
        """Mean CIDEr of the seeds."""
        return mean(kept.record.number(METRIC) for kept in self.kept)

    @property
    def low(self) -> float:
        """The lowest end of any seed's bootstrap interval: seeds and photos both count."""
        return min(kept.record.number(f"{METRIC}/low") for kept in self.kept)

    @property
    def high(self) -> float:
        """The highest end of any seed's bootstrap interval."""
        return max(kept.record.number(f"{METRIC}/high") for kept in self.kept)

    @property
    def parameters(self) -> int:
        """Trained ones; the same with every seed."""
        return int(self.kept[0].record.number("trained_parameters"))


@dataclass(frozen=True)
class Results:
    """Choices that may be compared, the base that they began with, and the runs that failed."""

    choices: tuple[Choice, ...]
    failed: tuple[Kept, ...]
    base: Kept | None = None


def results_of(kept: Iterable[Kept]) -> list[Results]:
    """The results of some records, those of most choices first.

    Only runs of one model, photos, evaluation and machine stand in one of them. Of a run that was
    made twice the newest counts. Other kinds of records are passed over.
    """
    groups: dict[str, dict[str, Kept]] = {}
    for one in kept:
        if one.record.what == WHAT and isinstance(one.record.protocol.get("recipe"), dict):
            own = groups.setdefault(_ground(one.record), {})
            key = str(one.record.protocol.get("key"))
            if key not in own or own[key].record.date <= one.record.date:
                own[key] = one
    found = [_results(list(own.values())) for own in groups.values()]
    return sorted(found, key=lambda one: len(one.choices), reverse=True)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points (cost, score) no other beats: places in the list, from the cheapest on.

    A point is beaten by one that costs no more and scores no less, and is better in one of both.
    """
    kept: list[int] = []
    for place in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not kept or points[place][1] > points[kept[-1]][1] or points[place] == points[kept[-1]]:
            kept.append(place)
    return kept


def over_rank(choices: Iterable[Choice]) -> dict[str, list[Choice]]:
    """Choices that differ in their rank alone, by the rest of their name: at least three ranks."""
    families: dict[str, list[Choice]] = {}
    for choice in choices:
        if "rank" in choice.name:
            rest = ", ".join(
                part for part in choice.name.split(", ") if not part.startswith(WITH_RANK)
            )
            families.setdefault(rest, []).append(choice)
    return {
        rest: sorted(own, key=lambda one: one.recipe["rank"])
        for rest, own in families.items()
        if len({one.recipe["rank"] for one in own}) >= 3
    }


def law_over_rank(family: Sequence[Choice], base: float = 0.0) -> PowerLaw:
    """What CIDEr gains over the base's as a power of the rank, every seed a point.

    Raises FitError where there is none, as for a run that is no better than the base.
    """
    points = [
        (one.recipe["rank"], kept.record.number(METRIC) - base)
        for one in family
        for kept in one.kept
    ]
    return fit([rank for rank, _ in points], [gain for _, gain in points])


def _results(kept: Sequence[Kept]) -> Results:
    whole = [one for one in kept if one.record.protocol.get("failed") is None]
    by_recipe: dict[str, list[Kept]] = {}
    trained = [one for one in whole if one.record.numbers.get("train_steps")]
    for one in trained:
        by_recipe.setdefault(_but_seed(one.record), []).append(one)
    return Results(
        tuple(_choice(own) for own in by_recipe.values()),
        tuple(one for one in kept if one.record.protocol.get("failed") is not None),
        next((one for one in whole if one not in trained), None),
    )


def _choice(kept: Sequence[Kept]) -> Choice:
    protocol = kept[0].record.protocol
    recipe = protocol["recipe"]
    label = str(protocol["label"]).removesuffix(f", seed {recipe['seed']}")
    return Choice(label, recipe["method"], recipe, tuple(kept))


def _ground(record: Record) -> str:
    """What has to be the same for two runs to be compared."""
    return json.dumps(
        [
            record.model,
            record.protocol.get("evaluation"),
            record.protocol.get("device"),
            record.hardware.model_dump(),
            record.protocol["recipe"]["data"],
        ],
        sort_keys=True,
    )


def _but_seed(record: Record) -> str:
    recipe = {name: value for name, value in record.protocol["recipe"].items() if name != "seed"}
    return json.dumps({**recipe, "output": None}, sort_keys=True)
