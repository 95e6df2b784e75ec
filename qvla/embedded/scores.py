"""Scores the embedded model on val photos: `python -m qvla.embedded.scores --data DIR --model DIR`.

Greedy captions against all references with PTB tokens, for the three variants. RSICD and UCM, whose
train photos it learned from, are scored together and apart; NWPU, of which it saw next to nothing,
is reported apart as photos from elsewhere. Writes `scores.json` into the model's folder.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from qvla.captioning import caption
from qvla.dataset import Example, fingerprint, read_examples
from qvla.files import write_json
from qvla.imagery import open_image
from qvla.lineup import VARIANTS, Lineup
from qvla.scoring.corpus import corpus_scores

log = logging.getLogger(__name__)

BATCH = 64
GROUPS = {
    "RSICD and UCM": ("RSICD", "UCM"),
    "RSICD": ("RSICD",),
    "UCM": ("UCM",),
    "NWPU (photos from elsewhere)": ("NWPU",),
}


def score(lineup: Lineup, examples: list[Example]) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by variant, then by group of sources, then by metric."""
    variants = [name for name in VARIANTS if lineup.variant(name).available]
    captions: dict[str, dict[str, str]] = {name: {} for name in variants}
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        answers = caption(lineup, [open_image(example.image) for example in batch], variants)
        for example, answer in zip(batch, answers, strict=True):
            for name in variants:
                captions[name][example.name] = answer[name].text
        log.info("captioned %d of %d photos", start + len(batch), len(examples))
    table: dict[str, dict[str, dict[str, float]]] = {name: {} for name in variants}
    for group, sources in GROUPS.items():
        references = {e.name: list(e.references) for e in examples if e.source in sources}
        if not references:
            continue
        for name in variants:
            said = {image: captions[name][image] for image in references}
            values = corpus_scores(references, said)
            table[name][group] = {metric: round(value, 4) for metric, value in values.items()}
            table[name][group]["photos"] = len(references)
    return table


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder in the RISC layout")
    parser.add_argument("--model", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--split", default="val")
    options = parser.parse_args()
    adapters = {name: options.model / name for name in ("adapter", "qvla")}
    lineup = Lineup.load(
        options.model,
        adapter=adapters["adapter"] if adapters["adapter"].is_dir() else None,
        nf4_adapter=adapters["qvla"] if adapters["qvla"].is_dir() else None,
    )
    examples = read_examples(options.data, splits=[options.split])
    result = {
        "protocol": "standard: all references, PTB tokens, greedy",
        "split": options.split,
        "data_fingerprint": fingerprint(examples),
        "scores": score(lineup, examples),
    }
    write_json(options.model / "scores.json", result)
    for name, groups in result["scores"].items():
        for group, values in groups.items():
            print(f"{name:8} {group:30} CIDEr {values['CIDEr']:.4f}  BLEU-4 {values['BLEU-4']:.4f}")


if __name__ == "__main__":
    main()
