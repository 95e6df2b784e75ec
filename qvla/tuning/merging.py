"""`qvla merge`: an adapter merged into its base, proved by its answers, and written whole.

The proof loads what was written once more and holds it against the base with the adapter beside it,
both in float32: the largest difference of logits, and the greedy caption or answer, of one photo
that comes with QVLA. Without it the checkpoint does not get its name: an adapter that is lost in a
merge, by a library or to rounding, leaves a model that answers as before and says nothing of it.
"""

from __future__ import annotations

import gc
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from qvla.captioning.desk import greedy
from qvla.captioning.prompts import encode_images, encode_text
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.files import parse_json, whole_folder, write_json
from qvla.hub import local_folder
from qvla.methods.registry import KINDS
from qvla.models import merging
from qvla.models.adapter_files import CONFIG, WEIGHTS, AdapterError
from qvla.models.adapters import load_adapter
from qvla.models.backbone import Backbone, Precision, load_backbone
from qvla.models.merging import MergeError
from qvla.records.store import fingerprint
from qvla.settings import ASSETS
from qvla.tuning.run_folder import CARD_FILE

RECORD = "merge.json"
PRECISIONS = (Precision.FP32, Precision.BF16)
TOKENS = 40  # of the caption
FP32_TOLERANCE = 1e-4  # of logits
LARGE_LOGITS = 2e-5  # of the largest, where that is more: some 170 roundings of float32
BF16_TOLERANCE = 0.25  # of what the adapter itself changes
PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class Proof:
    """What was written, against base and adapter, on one photo and prompt.

    Attributes:
        difference: the largest between their logits.
        tolerance: the difference that is allowed.
        adapter_moves: the largest difference that the adapter makes to the base's logits.
    """

    photo: str
    prompt: str
    difference: float
    tolerance: float
    adapter_moves: float
    caption: str
    merged_caption: str

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance and self.caption == self.merged_caption


@dataclass(frozen=True)
class Merged:
    """A merged checkpoint, as its `merge.json` tells it."""

    base: str
    adapter: str
    adapter_fingerprint: str
    method: str
    precision: str
    dequantised: bool
    head_untied: bool
    proof: Proof

    def card(self) -> dict[str, Any]:
        """As JSON values."""
        versions = {name: version(name) for name in PACKAGES}
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        return {**asdict(self), "versions": versions, "finished": finished}


@dataclass(frozen=True)
class _Answer:
    """What base and adapter say of the photo: the caption, and logits (T, vocabulary) along it."""

    caption: str
    logits: torch.Tensor
    adapter_moves: float


def merge(
    model: str,
    adapter: str,
    out: Path,
    *,
    dequantise: bool | None = None,
    precision: str | None = None,
    device: str = "auto",
) -> Merged:
    """Merges an adapter into a checkpoint and writes the result to `out`, proved or not at all.

    Args:
        model: the base, a folder or a hub id.
        adapter: a PEFT adapter, a folder or a hub id.
        out: the folder to write, which may not be there.
        dequantise: merge into the weights that NF4 makes of the base, as float numbers. None merges
            into the float base, and refuses an adapter whose `run.json` says that it was trained on
            NF4; False merges it all the same.
        precision: of what is written, fp32 or bf16; None is what the base's files have.
        device: where to do it: auto, cpu or cuda.

    Raises:
        MergeError: it cannot be merged or written, or the proof fails.
        AdapterError: the adapter is not whole or does not fit. BackboneError: the base neither.
    """
    if out.exists():
        raise MergeError(f"{out} is there already: name another folder.")
    files = merging.check_method(adapter)
    _check_quantised(model, adapter, dequantise)
    chosen = merging.stored_precision(model) if precision is None else Precision(precision)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(out) as folder:
            answer, untied = _write(model, adapter, folder, bool(dequantise), chosen, device)
            gc.collect()
            proof = _prove(answer, folder, chosen, device)
            if not proof.holds:
                raise MergeError(_failed(proof, out, chosen))
            merged = Merged(
                base=_name(model),
                adapter=_name(adapter),
                adapter_fingerprint=_fingerprint(adapter),
                method=merging.method_in(files),
                precision=chosen.value,
                dequantised=bool(dequantise),
                head_untied=untied,
                proof=proof,
            )
            write_json(folder / RECORD, merged.card())
    except OSError as error:
        raise MergeError(
            f"{out} cannot be written ({error.strerror or error}): name another folder."
        ) from error
    return merged


def _check_quantised(model: str, adapter: str, dequantise: bool | None) -> None:
    if merging.is_stored_quantised(model):
        if not dequantise:
            raise MergeError(
                f"{model} holds weights quantised to 4 bits, which no adapter can be added to: add "
                "--dequantise to merge into the float numbers that they stand for."
            )
    elif dequantise is None and _trained_on_nf4(adapter):
        raise MergeError(
            f"{adapter} was trained on its base in NF4, so merged into the float weights it would "
            "answer otherwise: add --dequantise to merge into the numbers that the NF4 weights "
            "stand for, or --no-dequantise to merge into the float weights all the same."
        )


def _trained_on_nf4(adapter: str) -> bool:
    """Whether the adapter's card says so; one without a card is taken for any base's."""
    card = local_folder(adapter, (CONFIG, WEIGHTS, CARD_FILE), AdapterError) / CARD_FILE
    try:
        name = parse_json(card.read_bytes())["recipe"]["method"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return isinstance(name, str) and name in KINDS and KINDS[name].quantised


def _write(
    model: str, adapter: str, folder: Path, dequantise: bool, precision: Precision, device: str
) -> tuple[_Answer, bool]:
    """Writes the merged checkpoint; returns what base and adapter said before, and whether the
    output head is no longer tied. Nothing of the weights stays in memory.
    """
    backbone = merging.load_base(model, device=device, dequantise=dequantise)
    tied = backbone.model.config.tie_word_embeddings
    _check_disk(backbone, folder, precision)
    attached = load_adapter(backbone, adapter, "merged")
    _, photo = _photo()
    [caption] = greedy(backbone, attached.model, [photo], _prompt(backbone), TOKENS)
    logits = _logits(backbone, attached.model, photo, caption)
    moves = _apart(logits, _logits(backbone, backbone.model, photo, caption))
    merged = merging.merge(attached)
    untied = tied and not merged.config.tie_word_embeddings
    merging.write(backbone, merged, precision, folder)
    return _Answer(caption, logits, moves), untied


def _prove(answer: _Answer, folder: Path, precision: Precision, device: str) -> Proof:
    written = load_backbone(folder, Precision.FP32, device=device)
    name, photo = _photo()
    [caption] = greedy(written, written.model, [photo], _prompt(written), TOKENS)
    difference = _apart(answer.logits, _logits(written, written.model, photo, answer.caption))
    tolerance = max(FP32_TOLERANCE, LARGE_LOGITS * answer.logits.abs().max().item())
    if precision is Precision.BF16:
        tolerance = max(tolerance, BF16_TOLERANCE * answer.adapter_moves)
    return Proof(
        photo=name,
        prompt=_prompt(written),
        difference=difference,
        tolerance=tolerance,
        adapter_moves=answer.adapter_moves,
        caption=answer.caption,
        merged_caption=caption,
    )


def _failed(proof: Proof, out: Path, precision: Precision) -> str:
    said = (
        "the caption is the same"
        if proof.caption == proof.merged_caption
        else f"the caption is {proof.merged_caption!r} where {proof.caption!r} is due"
    )
    remedy = (
        "Rounding to bf16 loses too much of it: use --precision fp32."
        if precision is Precision.BF16
        else "Keep it as an adapter beside its base."
    )
    return (
        f"{out} was not written, because the merged model does not answer as base and adapter do: "
        f"logits differ by up to {proof.difference:.2g} where {proof.tolerance:.2g} is allowed, "
        f"and {said}. {remedy}"
    )


def _prompt(backbone: Backbone) -> str:
    """What the family is usually asked."""
    return backbone.family.usual_prompt


def _photo() -> tuple[str, Image.Image]:
    """The first of the examples that come with QVLA."""
    example = read_examples(ASSETS / "examples")[0]
    return example.name, open_image(example.image)


def _logits(backbone: Backbone, model: Any, photo: Image.Image, caption: str) -> torch.Tensor:
    """Logits (T, vocabulary) at the end of the prompt and along a caption, on the CPU."""
    prompts = [_prompt(backbone)]
    batch = encode_text(backbone.processor, prompts, [caption]).to(backbone.device)
    labels = batch.pop("labels")
    pixels = encode_images(backbone.processor, [photo]).to(backbone.device)
    kept = int((labels != -100).sum()) + 1
    with torch.inference_mode():
        return model(**batch, pixel_values=pixels, logits_to_keep=kept).logits[0].float().cpu()


def _apart(left: torch.Tensor, right: torch.Tensor) -> float:
    return (left - right).abs().max().item()


def _check_disk(backbone: Backbone, folder: Path, precision: Precision) -> None:
    numbers = sum(parameter.numel() for parameter in backbone.model.parameters())
    needed, free = numbers * merging.DTYPES[precision].itemsize, shutil.disk_usage(folder).free
    if free < needed:
        raise MergeError(
            f"The merged checkpoint needs {needed / 1e9:.1f} GB of disk and {free / 1e9:.1f} GB "
            "are left there: make room or name another folder."
        )


def _fingerprint(adapter: str) -> str:
    folder = local_folder(adapter, (CONFIG, WEIGHTS), AdapterError)
    return fingerprint([folder / CONFIG, folder / WEIGHTS])


def _name(name: str) -> str:
    """A hub id, or the name of a folder: a path would say nothing on another machine."""
    return Path(name).resolve().name if Path(name).is_dir() else name
