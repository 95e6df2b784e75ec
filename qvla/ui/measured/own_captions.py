"""Captions of any system scored beside ours: on the same photos, under both protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qvla.errors import QvlaError
from qvla.ui.measured.evaluations import Evaluation
from qvla.ui.measured.scored_photos import EvaluatedPhotos, PhotoShelf

if TYPE_CHECKING:
    from qvla.scoring import Difference, Scored

OWN = "yours"
NAMED = 3  # images that an answer names


class OwnCaptionsError(QvlaError):
    """The captions cannot be scored beside ours; the message says why."""


@dataclass(frozen=True)
class Beside:
    """Scores by protocol, then by system, the visitor's first; all on the same `images` photos.

    `missing` are photos of the evaluation that the file has no caption of, `unknown` images of the
    file that are not in the evaluation. `differences` are the visitor's CIDEr minus a variant's,
    by protocol and variant.
    """

    evaluation: Evaluation
    images: int
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Scored]]
    differences: Mapping[str, Mapping[str, Difference]]


def score_beside(
    own: Mapping[str, str], shelf: PhotoShelf, evaluations: Sequence[Evaluation], stem: str = ""
) -> Beside:
    """Scores captions by image name beside those of an evaluation.

    That is the one of file stem `stem`, or else the one that shares the most photos with them, the
    first of equals. Raises QvlaError.
    """
    if stem:
        wanted = [one for one in evaluations if one.stem == stem]
        if not wanted:
            raise OwnCaptionsError(f"There is no evaluation {stem!r} here: leave it out.")
        photos = shelf.of(wanted[0])
    else:
        photos = _most_shared(own, shelf, evaluations)
    shared = [name for name in photos.examples if name in own]
    if not shared:
        first = ", ".join(list(photos.examples)[:NAMED])
        raise OwnCaptionsError(
            f"None of the {len(own):,} images in this file is among the photos here: name them as "
            f"the data does, such as {first}."
        )
    scores, differences = _scores(photos, {name: own[name] for name in shared})
    return Beside(
        photos.evaluation,
        len(shared),
        tuple(name for name in photos.examples if name not in own),
        tuple(name for name in own if name not in photos.examples),
        scores,
        differences,
    )


def as_json(beside: Beside) -> dict[str, Any]:
    """The same as an object, scores as `qvla score --json` gives them."""
    return {
        "evaluation": beside.evaluation.stem,
        "images": beside.images,
        "missing": _counted(beside.missing),
        "unknown": _counted(beside.unknown),
        "protocols": {
            protocol: {
                name: {
                    "tokenizer": scored.tokenizer,
                    "metrics": {metric: asdict(ends) for metric, ends in scored.metrics.items()},
                }
                for name, scored in systems.items()
            }
            for protocol, systems in beside.scores.items()
        },
        "differences": {
            protocol: {f"{OWN}-minus-{name}": asdict(found) for name, found in differences.items()}
            for protocol, differences in beside.differences.items()
        },
    }


def _most_shared(
    own: Mapping[str, str], shelf: PhotoShelf, evaluations: Sequence[Evaluation]
) -> EvaluatedPhotos:
    found: EvaluatedPhotos | None = None
    most = -1
    fault = "No evaluation has been measured yet, so there are no captions to set yours beside."
    for evaluation in evaluations:
        try:
            photos = shelf.of(evaluation)
        except QvlaError as error:
            fault = str(error)
            continue
        shared = sum(name in own for name in photos.examples)
        if shared > most:
            found, most = photos, shared
    if found is None:
        raise OwnCaptionsError(fault)
    return found


def _scores(
    photos: EvaluatedPhotos, own: Mapping[str, str]
) -> tuple[dict[str, dict[str, Scored]], dict[str, dict[str, Difference]]]:
    from qvla.scoring import METRICS, PROTOCOLS, compare, score

    names = tuple(own)
    seed = photos.evaluation.record.protocol.get("seed")
    seed = seed if isinstance(seed, int) else 0
    references = {name: photos.examples[name].references for name in names}
    scores: dict[str, dict[str, Scored]] = {}
    differences: dict[str, dict[str, Difference]] = {}
    for protocol in PROTOCOLS:
        mine = score(references, own, protocol, seed=seed, metrics=METRICS)
        ours = {
            variant: score(
                references,
                {name: said[name] for name in names},
                protocol,
                seed=seed,
                metrics=METRICS,
            )
            for variant, said in photos.captions.items()
        }
        scores[protocol] = {OWN: mine, **ours}
        differences[protocol] = {
            name: compare(other, mine, seed=seed)["CIDEr"] for name, other in ours.items()
        }
    return scores, differences


def _counted(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "first": list(names[:NAMED])}
