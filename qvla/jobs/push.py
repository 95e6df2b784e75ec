"""What a fine-tune made, pushed to a repository on the Hugging Face Hub with a model card.

The token is the machine's own (`HF_TOKEN`, or `hf auth login`). What goes out is the finished
folder and the card made from its `run.json`, which names folders of this machine by their last name
alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, constants

from qvla.commits import HubError, explain, hub
from qvla.errors import QvlaError
from qvla.files import parse_json
from qvla.hub import is_hub_id
from qvla.methods.registry import KINDS, Kind

CARD, RUN = "README.md", "run.json"
PUSHED = (".json", ".safetensors", ".txt", ".model", ".jinja")  # no pickle, and nothing hidden
SHOWN = (
    *("epochs", "max_steps", "batch_size", "gradient_accumulation", "learning_rate"),
    *("lr_scheduler", "warmup_steps", "optimiser", "seed", "augment", "prefix"),
)


class PushError(QvlaError):
    """Nothing was pushed; the message says why."""


def push(folder: Path, repository: str, *, private: bool = True) -> str:
    """Pushes a finished folder in one commit, and returns its address.

    A repository that is there already gets a new commit. Raises PushError.
    """
    if not is_hub_id(repository):
        raise PushError(f"{repository!r} is no name of a repository: write owner/name.")
    try:
        api = hub()
    except HubError as error:
        raise PushError(str(error)) from error
    text = model_card(folder, repository)
    operations = [CommitOperationAdd(CARD, text.encode())]
    operations += [CommitOperationAdd(file.name, str(file)) for file in pushed_files(folder)]
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message="Fine-tuned with QVLA")
    except Exception as error:  # whatever the libraries below it raise
        raise PushError(explain(repository, error)) from error
    return str(address)


def pushed_files(folder: Path) -> list[Path]:
    """The files of the folder that go out, besides the card."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in PUSHED and not file.name.startswith(".") and file.is_file()
    )


def model_card(folder: Path, repository: str) -> str:
    """The card of a finished folder, from its `run.json`. Raises PushError without one."""
    try:
        run = parse_json((folder / RUN).read_bytes())
        recipe = run["recipe"]
        kind, model = KINDS[recipe["method"]], recipe["model"]
        text = f"""---
{yaml.safe_dump(_metadata(kind, model), sort_keys=False).strip()}
---

# {repository.rpartition("/")[2]}

{kind.made}, trained to caption satellite photos. The base is {_link(model)}.

## Use

{_use(kind, model, repository)}

## Training

{_table(_facts(run))}

{_losses(run["curve"])}

The captions that it was trained on, and what they describe, set the limits of what it can say. The
terms of the base and of the training data ({recipe["data"]}) go with these weights.
"""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PushError(f"{folder} has no whole {RUN}, so no card can be made of it.") from error
    return text


def _metadata(kind: Kind, model: str) -> dict[str, Any]:
    is_adapter = kind.method.is_adapter
    values: dict[str, Any] = {"library_name": "peft" if is_adapter else "transformers"}
    if is_hub_id(model):
        relation = "adapter" if is_adapter else "finetune"
        values |= {"base_model": model, "base_model_relation": relation}
        if model.startswith("google/paligemma"):
            values["license"] = "gemma"
    values |= {
        "pipeline_tag": "image-text-to-text",
        "tags": ["qvla", "image-captioning", "remote-sensing", kind.name],
        "language": "en",
    }
    return values


def _use(kind: Kind, model: str, repository: str) -> str:
    if not kind.method.is_adapter:
        return f"```sh\nQVLA_MODEL={repository} python -m qvla serve\n```"
    name = "QVLA_NF4_ADAPTER" if kind.quantised else "QVLA_ADAPTER"
    text = f"With QVLA:\n\n```sh\nQVLA_MODEL={model} {name}={repository} python -m qvla serve\n```"
    if kind.method.needs_import is not None:
        text += f"\n\nIts PEFT method is QVLA's own: `import {kind.method.needs_import}` first."
    return text


def _facts(run: dict[str, Any]) -> dict[str, Any]:
    recipe, data = run["recipe"], run["data"]
    names = (*SHOWN, *KINDS[recipe["method"]].method.fields)
    percent = run["parameters"]["adapter_percent"]
    return {
        "method": recipe["method"],
        "data": f"{recipe['data']}, {', '.join(recipe['splits'])}: {data['photos']:,} photos with "
        f"{data['captions']:,} captions (sha256 {data['fingerprint'][:16]}…)",
        "trained parameters": f"{run['parameters']['trained']:,} ({percent:.3g} % of the base)",
        "steps": run["steps"],
        **{name.replace("_", " "): recipe[name] for name in names if recipe.get(name) is not None},
        "images a second": run["images_per_second"],
        "device": run["device"],
        "finished": run["finished"],
        "versions": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
    }


def _table(facts: dict[str, Any]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _losses(curve: list[dict[str, Any]]) -> str:
    losses = [row["loss"] for row in curve if "loss" in row]
    held_out = [row["eval_loss"] for row in curve if "eval_loss" in row]
    said = []
    if losses:
        said.append(f"The training loss went from {losses[0]:.3f} to {losses[-1]:.3f}.")
    if held_out:
        said.append(f"The loss on held-out photos was {held_out[-1]:.3f} at the end.")
    return " ".join(said)


def _link(model: str) -> str:
    return f"[{model}]({constants.ENDPOINT}/{model})" if is_hub_id(model) else f"`{model}`"
