"""`qvla plan`: how much memory a variant will take, and which GPUs suffice, before it is tried."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from qvla.captioning.contenders import VARIANTS
from qvla.captioning.options import positive
from qvla.cli.output import as_json
from qvla.settings import load_settings

if TYPE_CHECKING:
    from qvla.planning.planner import Plan

# Names as `qvla.planning.planner.plan` has them; what is not given is left to its own defaults.
CHOICES = {
    "optimiser": ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"),
    "precision": ("fp32", "bf16", "fp16", "int8"),
    "attention": ("eager", "sdpa"),
}
COUNTS = {
    "image_tokens": "of one photo (default: the model's)",
    "text_tokens": "of one row behind the photo, padding included (default 28)",
    "new_tokens": "captioning: longest caption (default 40)",
    "num_beams": "captioning: beams (default 1)",
    "reduction_factor": "hidden size / width of the adapter (default 16)",
}
PARTS = ("weights", "gradients", "optimiser", "activations", "overhead", "total")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="hub id or folder; google/paligemma-3b-pt-224 is built in (no network)"
    )
    parser.add_argument(
        "--variant", help="some of base, adapter and qvla, separated by commas (default: all)"
    )
    parser.add_argument(
        "--task",
        choices=("captioning", "training"),
        default="training",
        help="training base trains all of its weights (default: training)",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=4, metavar="N", help="photos at once (default 4)"
    )
    parser.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="training: recompute activations instead of keeping them",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    for name, choices in CHOICES.items():
        parser.add_argument(f"--{name}", choices=choices)
    for name, text in COUNTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, metavar="N", help=text)
    parser.add_argument(
        "--train-norms", action="store_true", help="training: the norm after each adapter too"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(options: argparse.Namespace) -> int:
    """Prints the plan of each variant: bytes by what takes them, and the GPUs that suffice."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):
        from qvla.planning.planner import plan

        names = ("task", "batch_size", "gradient_checkpointing", "device", "train_norms")
        given = {name: getattr(options, name) for name in (*names, *CHOICES, *COUNTS)}
        given = {name: value for name, value in given.items() if value is not None}
        model = options.model or load_settings().model
        plans = {name: plan(model, name, **given) for name in _variants(options.variant or "")}
    if options.json:
        print(as_json(_as_json(str(model), given, plans)), file=output)
    else:
        print(_in_words(str(model), options, plans), file=output)
    return 0


def _variants(named: str) -> list[str]:
    """The names given, each once; the planner refuses those that do not exist."""
    given = dict.fromkeys(name.strip() for name in named.split(",") if name.strip())
    return list(given) or list(VARIANTS)


def _as_json(model: str, given: dict[str, Any], plans: dict[str, Plan]) -> dict[str, Any]:
    from qvla.planning.gpus import MARGIN

    variants = {}
    for name, plan in plans.items():
        numbers: dict[str, Any] = {f"{part}_bytes": getattr(plan, part) for part in PARTS}
        numbers["fits"] = {gpu: fit for gpu, _, fit in plan.fits}
        variants[name] = numbers
    return {"model": model, **given, "margin": MARGIN, "variants": variants}


def _in_words(model: str, options: argparse.Namespace, plans: dict[str, Plan]) -> str:
    from qvla.planning.gpus import MARGIN

    recomputing = ", activations recomputed" if options.gradient_checkpointing else ""
    lines = [
        f"{model}, {options.task}, {options.batch_size} at once{recomputing}: GB, as planned",
        f"{'':16}" + "".join(f"{name:>12}" for name in plans),
    ]
    for part in PARTS:
        sizes = (getattr(plan, part) for plan in plans.values())
        lines.append(f"{part:16}" + "".join(f"{size / 1e9:12.2f}" for size in sizes))
    gpus = next(iter(plans.values())).fits
    if gpus:
        lines += ["", f"Fits, with {MARGIN:.0%} of the card left free:"]
    for index, (gpu, _, _) in enumerate(gpus):
        answers = ("yes" if plan.fits[index][2] else "no" for plan in plans.values())
        lines.append(f"{gpu:16}" + "".join(f"{answer:>12}" for answer in answers))
    return "\n".join(lines)
