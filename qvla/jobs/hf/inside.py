"""What runs within a Hugging Face Job: training, and pushing what comes of it.

`python -m qvla.jobs.hf.inside`, in an empty folder with QVLA's code. The environment names the
run's repository, when the job began and its time-out; the token is the secret `HF_TOKEN`. Events go
to standard output behind a mark, as it is the one thing that is seen from outside at once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from qvla import commits
from qvla.data.archive import unpack
from qvla.errors import QvlaError
from qvla.jobs import folder as files
from qvla.jobs.hf import repository as layout
from qvla.jobs.hf.marks import EVENT, OUT_OF_TIME, PUSHED
from qvla.tuning import checkpoints, events

LOOK_SECONDS = 0.2
# Before the time-out the run is ended with a checkpoint, so that nothing of it is lost.
SPARE_SHARE, SPARE_MOST = 0.1, 300.0
NOT_PUSHED = ("training_args.bin",)  # a pickle that nothing reads
TRAIN = (sys.executable, "-m", "qvla", "train", "--config", files.RECIPE)
RUN_FILE = "recipe.json"  # beside the checkpoints: what a resumed run is held against


class Inside:
    """One attempt at the run, in the folder `place`, which is ended with a checkpoint once the
    clock (in seconds) says `ends`. `train` is the command, without `--resume`.
    """

    def __init__(
        self,
        api: HfApi,
        repository: str,
        place: Path,
        ends: float | None,
        train: Sequence[str] = TRAIN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api, self._repository, self._place = api, repository, place
        self._ends, self._train, self._clock = ends, train, clock
        self._checkpoints = place / layout.CHECKPOINTS
        self._events = place / layout.EVENTS
        self._told = 0
        self._pushed: str | None = None
        self._failed = ""

    def run(self) -> int:
        """Trains from the last pushed checkpoint on, and returns the code to end with."""
        self._fetch()
        command = list(self._train)
        found = checkpoints.find(self._checkpoints).checkpoint
        if found is not None:
            command.append("--resume")
            self._pushed = found.name
        self._told = self._events.stat().st_size if self._events.exists() else 0
        process = subprocess.Popen(command, cwd=self._place)
        try:
            out_of_time = self._watch(process)
        finally:
            process.kill()  # nothing, where it has ended
            process.wait()
        self._tell()
        if process.returncode == 0 and files.is_complete(self._place):
            self._push_adapter()
            return 0
        self._push_checkpoint()
        if out_of_time:
            print(OUT_OF_TIME, flush=True)
        return process.returncode or 1

    def _watch(self, process: subprocess.Popen[bytes]) -> bool:
        """Tells and pushes until training has ended; whether that was for want of time."""
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        out_of_time = False
        while process.poll() is None:
            if not out_of_time and self._ends is not None and self._clock() > self._ends:
                out_of_time = True
                process.terminate()  # it ends with a checkpoint
            self._tell()
            self._push_checkpoint()
            time.sleep(LOOK_SECONDS)
        return out_of_time

    def _fetch(self) -> None:
        """The recipe, what it names, and the last checkpoint, from the repository."""
        wanted = [files.RECIPE, f"{layout.GIVEN}/*", f"{layout.CHECKPOINTS}/*", layout.EVENTS]
        layout.download(self._api, self._repository, wanted, self._place)
        recipe: dict[str, Any] = layout.recipe_in(self._place)
        archive = self._place / f"{recipe['data']}.zip"
        if archive.is_file():
            unpack(archive, self._place / recipe["data"])

    def _tell(self) -> None:
        rows, self._told = events.read(self._events, self._told)
        for row in rows:
            print(f"{EVENT}{json.dumps(row)}", flush=True)

    def _push_checkpoint(self) -> None:
        """Pushes the newest whole checkpoint, in place of the one before. Training goes on."""
        found = checkpoints.find(self._checkpoints).checkpoint
        if found is None or found.name == self._pushed:
            return
        copy = self._place / ".pushing"
        shutil.rmtree(copy, ignore_errors=True)
        try:
            # Training takes old ones away, and would do so under our hands.
            shutil.copytree(found, copy, copy_function=os.link)
            operations = [self._add(file, found.name) for file in _files_of(copy)]
            note = self._checkpoints / RUN_FILE
            if note.exists():
                operations.append(CommitOperationAdd(f"{layout.CHECKPOINTS}/{RUN_FILE}", str(note)))
            self._commit([*operations, *self._without_pushed()], f"Step {_step(found)}")
        except (QvlaError, OSError) as error:
            if str(error) != self._failed:  # it is tried again, and said once
                print(f"{found.name} is not pushed yet: {error}", flush=True)
            self._failed = str(error)
            return
        self._pushed, self._failed = found.name, ""
        print(f"{PUSHED}{_step(found)}", flush=True)

    def _push_adapter(self) -> None:
        folder = self._place / files.OUTPUT
        operations = [
            CommitOperationAdd(f"{files.OUTPUT}/{file.name}", str(file))
            for file in sorted(folder.iterdir())
            if file.is_file() and file.suffix in layout.WEIGHTS
        ]
        self._commit([*operations, *self._without_pushed()], "The run is done")

    def _commit(self, operations: list[Any], message: str) -> None:
        if self._events.exists():
            operations.append(CommitOperationAdd(layout.EVENTS, self._events.read_bytes()))
        commits.commit(self._api, self._repository, operations, message)

    def _add(self, file: Path, checkpoint: str) -> CommitOperationAdd:
        return CommitOperationAdd(f"{layout.CHECKPOINTS}/{checkpoint}/{file.name}", str(file))

    def _without_pushed(self) -> list[CommitOperationDelete]:
        if self._pushed is None:
            return []
        return [CommitOperationDelete(f"{layout.CHECKPOINTS}/{self._pushed}/", is_folder=True)]


def _files_of(checkpoint: Path) -> list[Path]:
    return [
        file
        for file in sorted(checkpoint.iterdir())
        if file.is_file() and file.name not in NOT_PUSHED
    ]


def _step(checkpoint: Path) -> int:
    return checkpoints.step_of(checkpoint)


def main() -> int:
    repository = os.environ["QVLA_REPOSITORY"]
    seconds, ends = float(os.environ.get("QVLA_SECONDS") or 0), None
    if seconds:
        began = float(os.environ.get("QVLA_BEGAN") or time.time())
        ends = began + seconds - min(SPARE_MOST, SPARE_SHARE * seconds)
    try:
        return Inside(commits.hub(), repository, Path.cwd(), ends).run()
    except QvlaError as error:
        print(error, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
