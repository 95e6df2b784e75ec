"""The private repository of one run at Hugging Face: what goes there, and what comes back.

QVLA's own code, the recipe, and whatever the recipe names by a path here: a base or an adapter as
files, data as one zip archive. The job adds checkpoints, events and, at the end, the adapter.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, HfApi

from qvla import commits
from qvla.data.archive import MOST_BYTES, is_data
from qvla.errors import QvlaError
from qvla.files import parse_json, whole_folder
from qvla.jobs import folder as files
from qvla.settings import CHECKOUT, PACKAGE
from qvla.tuning import events

CODE, REQUIREMENTS, GIVEN = "code.zip", "requirements.txt", "given"
CHECKPOINTS, EVENTS = f"{files.OUTPUT}.checkpoints", f"{files.OUTPUT}.events.jsonl"
# Of a base or an adapter: no pickle, and nothing hidden.
WEIGHTS = (".json", ".safetensors", ".txt", ".model", ".jinja", ".yaml", ".md")


def name_of(job_id: str, namespace: str) -> str:
    """The repository of a job, in the account that its token is of."""
    return f"{namespace}/qvla-job-{job_id}"


def push_run(api: HfApi, repository: str, recipe: dict[str, Any]) -> str:
    """Makes the repository and puts the run there; returns a sentence on what went.

    Raises HubError, and QvlaError for data that cannot go along.
    """
    with tempfile.TemporaryDirectory(prefix="qvla-job-") as place:
        operations, there = list(_given(recipe, Path(place))), dict(recipe)
        for name in ("model", "data", "start_from"):
            path = recipe.get(name)
            if path and Path(path).exists():
                there[name] = f"{GIVEN}/{name}/{Path(path).resolve().name}"
        there |= {"output": files.OUTPUT}
        _pack_code(Path(place) / CODE)
        operations += [
            CommitOperationAdd(CODE, str(Path(place) / CODE)),
            CommitOperationAdd(REQUIREMENTS, _requirements().encode()),
            CommitOperationAdd(files.RECIPE, yaml.safe_dump(there, sort_keys=False).encode()),
        ]
        commits.asking(lambda: api.create_repo(repository, private=True, exist_ok=True), repository)
        size = sum(one.upload_info.size for one in operations)
        commits.commit(api, repository, operations, "What the run needs")
    return f"Code, recipe and what it names ({size / 1e6:,.1f} MB) are in {repository}, private."


def fetch_adapter(api: HfApi, repository: str, folder: Path) -> None:
    """The finished adapter from the repository into the job's folder, whole or not at all."""
    add_events(api, repository, folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetched-") as place:
        patterns = [f"{files.OUTPUT}/*{suffix}" for suffix in WEIGHTS]
        download(api, repository, patterns, Path(place))
        came = Path(place) / files.OUTPUT
        if not (came / "run.json").is_file():
            raise QvlaError(f"{repository} has no whole adapter, though its job says it is done.")
        with whole_folder(folder / files.OUTPUT, replace=True) as new:
            for file in came.iterdir():
                shutil.move(file, new / file.name)


def download(api: HfApi, repository: str, patterns: list[str], place: Path) -> None:
    """The files of the repository that match, as they lie there. Raises HubError."""
    commits.asking(
        lambda: api.snapshot_download(repository, allow_patterns=patterns, local_dir=str(place)),
        repository,
        reading=True,
    )


def last_step(api: HfApi, repository: str) -> int | None:
    """The step of the newest checkpoint in the repository. Raises HubError."""
    names = commits.asking(lambda: api.list_repo_files(repository), repository, reading=True)
    prefix = f"{CHECKPOINTS}/checkpoint-"
    steps = [name.removeprefix(prefix).split("/")[0] for name in names if name.startswith(prefix)]
    return max((int(step) for step in steps if step.isdigit()), default=None)


def is_done(api: HfApi, repository: str) -> bool:
    """Whether the adapter is in the repository. Raises HubError."""
    name = f"{files.OUTPUT}/run.json"
    return bool(commits.asking(lambda: api.file_exists(repository, name), repository, reading=True))


def add_events(api: HfApi, repository: str, folder: Path) -> None:
    """Adds what the job's log, from which events come here, has not told, in the order of time.

    Raises HubError.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetched-") as place:
        download(api, repository, [EVENTS], Path(place))
        there, _ = events.read(Path(place) / EVENTS)
        here, _ = events.read(files.events_of(folder))
        if missing := [row for row in there if row not in here]:
            whole = Path(place) / "whole"
            for row in sorted([*here, *missing], key=events.time_of):
                events.relay(whole, row)
            whole.replace(files.events_of(folder))


def _given(recipe: dict[str, Any], place: Path) -> Iterator[CommitOperationAdd]:
    """What the recipe names by a path here."""
    for name in ("model", "start_from"):
        folder = Path(recipe.get(name) or "")
        if recipe.get(name) and folder.is_dir():
            target = f"{GIVEN}/{name}/{folder.resolve().name}"
            for file in sorted(folder.iterdir()):
                if file.is_file() and file.suffix in WEIGHTS and not file.name.startswith("."):
                    yield CommitOperationAdd(f"{target}/{file.name}", str(file))
    data = Path(recipe["data"])
    if data.is_file():
        raise QvlaError(
            f"{data.name} is a single file: for a Hugging Face Job name the folder that holds it "
            "with its photos, or a data set on the hub."
        )
    if data.is_dir():
        archive = place / "data.zip"
        _pack_data(data.resolve(), archive)
        yield CommitOperationAdd(f"{GIVEN}/data/{data.resolve().name}.zip", str(archive))


def _pack_data(folder: Path, archive: Path) -> None:
    left = MOST_BYTES
    with zipfile.ZipFile(archive, "w") as packed:  # photos hardly get smaller
        for file in sorted(folder.rglob("*")):
            inside = file.relative_to(folder)
            if file.is_file() and is_data(inside):
                left -= file.stat().st_size
                if left < 0:
                    raise QvlaError(
                        f"{folder.name} is larger than {MOST_BYTES / 2**30:.0f} GiB: push it to "
                        "the hub as a data set, and name its id as the data."
                    )
                packed.write(file, str(inside))


def _pack_code(archive: Path) -> None:
    """The package as it runs here, without the small model and the examples."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(PACKAGE.rglob("*")):
            inside = file.relative_to(PACKAGE)
            if file.is_file() and not {"__pycache__", "shipped"} & set(inside.parts):
                packed.write(file, f"{PACKAGE.name}/{inside}")


def _requirements() -> str:
    if CHECKOUT is not None and (CHECKOUT / REQUIREMENTS).is_file():
        return (CHECKOUT / REQUIREMENTS).read_text(encoding="utf-8")
    needed = metadata.requires("qvla") or []
    return "".join(f"{line}\n" for line in needed if "extra ==" not in line)


def recipe_in(folder: Path) -> dict[str, Any]:
    """The recipe of a job's folder. Raises QvlaError when it cannot be read."""
    try:
        values = yaml.safe_load((folder / files.RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise QvlaError(f"{folder / files.RECIPE} cannot be read.") from error
    if not isinstance(values, dict):
        raise QvlaError(f"{folder / files.RECIPE} holds no recipe.")
    return values


def row_in(text: str) -> events.Row | None:
    """The row of an event that a job has told in its log; None for what is none."""
    try:
        row = parse_json(text)
    except ValueError:
        return None
    return row if events.is_row(row) else None
