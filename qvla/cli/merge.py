"""`qvla merge`: an adapter merged into its base's weights, with a proof that nothing was lost."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from qvla.cli.output import as_json

if TYPE_CHECKING:
    from qvla.tuning.merging import Merged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="the base checkpoint: a folder or a hub id")
    parser.add_argument("--adapter", required=True, help="a PEFT adapter: a folder or a hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint to")
    parser.add_argument(
        "--dequantise",
        action=argparse.BooleanOptionalAction,
        help="merge into the float numbers that the base's NF4 weights stand for, or into the "
        "float weights although the adapter was trained on NF4 (default: neither)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="of what is written; the sum is always made in fp32 (default: as the base's files)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", action="store_true", help="print the record, a JSON object")


def run(options: argparse.Namespace) -> int:
    """Merges, proves, writes, and says what the proof found."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):
        from qvla.tuning.merging import merge

        merged = merge(
            options.model,
            options.adapter,
            options.out,
            dequantise=options.dequantise,
            precision=options.precision,
            device=options.device,
        )
    print(as_json(merged.card()) if options.json else _in_words(merged, options.out), file=output)
    return 0


def _in_words(merged: Merged, out: Path) -> str:
    proof = merged.proof
    base = f"{merged.base}, dequantised from NF4" if merged.dequantised else merged.base
    rule = {
        "fp32": "the precision of float32",
        "bf16": "a quarter of what the adapter itself changes, for bf16 rounds each weight",
    }[merged.precision]
    lines = [
        f"{out}: {base}, with the {merged.method} adapter {merged.adapter} in its weights, in "
        f"{merged.precision}",
        f"Proof on {proof.photo} with the prompt {proof.prompt!r}: loaded again, its logits differ "
        f"from those of base and adapter by at most {proof.difference:.2g} (allowed: "
        f"{proof.tolerance:.2g}, {rule}; the adapter itself changes them by up to "
        f"{proof.adapter_moves:.2g}), and the caption is the same: {proof.caption}",
    ]
    if proof.adapter_moves <= proof.tolerance:
        lines.append(
            "The adapter changes next to nothing on this photo, so the proof says little of it."
        )
    if merged.head_untied:
        lines.append(
            "The output head is no longer tied to the embedding table, for the adapter changes "
            "one of them alone."
        )
    return "\n".join(lines)
