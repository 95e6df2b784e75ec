"""Starts a fine-tune as a Hugging Face Job and follows it: `python -m qvla.jobs.hf.follow FOLDER`.

The worker runs this in place of training. What the job says is said here, its events go into the
folder's own file, and its adapter into the folder. SIGINT cancels the job; SIGTERM only ends the
following of it: the job goes on, and the next attempt finds it by `remote.json`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import __version__ as hub_version
from huggingface_hub import constants, get_token

from qvla import commits
from qvla.commits import HubError
from qvla.errors import QvlaError
from qvla.jobs.hf import repository as layout
from qvla.jobs.hf.marks import EVENT, OUT_OF_TIME, PUSHED
from qvla.jobs.hf.sizing import Size, size_of
from qvla.jobs.hf.state import Remote, read
from qvla.jobs.runner import TRY_AGAIN
from qvla.settings import Settings, load_settings
from qvla.tuning import events

IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"  # huggingface_hub's own for `run_uv_job`
OVER = ("COMPLETED", "CANCELED", "ERROR", "DELETED")
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between tries to reach Hugging Face
START = (
    'set -e; export QVLA_BEGAN=$(date +%s); cd "$(mktemp -d)"; '
    f"uv run --no-project --with huggingface_hub=={hub_version} "
    'hf download "$QVLA_REPOSITORY" code.zip requirements.txt --local-dir . --quiet; '
    "python -m zipfile -e code.zip .; "
    "exec uv run --no-project --with-requirements requirements.txt "
    "python -u -m qvla.jobs.hf.inside"
)


class Cancelled(BaseException):
    """The fine-tune is to be ended for good."""


class Leaving(BaseException):
    """The worker goes; the job is to go on."""


class TryAgain(QvlaError):
    """Nothing is wrong with the fine-tune itself, and resuming it may do."""


class Follower:
    """One attempt at the job of `folder`; `patience` is in seconds, without an answer."""

    def __init__(self, folder: Path, settings: Settings, patience: float) -> None:
        self._folder, self._settings, self._patience = folder, settings, patience
        self._out_of_time = False
        self._last_words = ""

    def run(self) -> None:
        """Returns when the adapter is in the folder. Raises QvlaError with why it is not."""
        self._api = commits.hub()
        remote = read(self._folder)
        if remote is None or not remote.goes_on:
            remote = self._start(remote)
        else:
            self._say(f"Follows the job {remote.job} again.")
        if not remote.over:
            self._follow(remote)
        self._say("Fetches the adapter.")
        layout.fetch_adapter(self._api, remote.repository, self._folder)

    def cancel(self) -> None:
        """Ends the job at Hugging Face, where there is one. Raises QvlaError when it cannot."""
        remote = read(self._folder)
        if remote is None or not remote.goes_on:
            return
        api, names = commits.hub(), {"job_id": remote.job, "namespace": remote.namespace}
        commits.asking(lambda: api.cancel_job(**names), "the wish to cancel", pauses=(1, 2, 5))
        remote.over = True
        remote.write(self._folder)
        remote.step = layout.last_step(api, remote.repository)
        remote.write(self._folder)

    def _start(self, before: Remote | None) -> Remote:
        """Pushes the run and starts a job; the run is `over` where it has come to its end."""
        api = self._api
        recipe = layout.recipe_in(self._folder)
        who = commits.account(api)
        repository = before.repository if before else layout.name_of(self._folder.name, who)
        remote = Remote(repository, who, step=before.step if before else None)
        if before is not None and layout.is_done(api, repository):
            return remote
        size = self._size(recipe)
        self._say(layout.push_run(api, repository, recipe))
        remote.write(self._folder)
        # Whoever asks for the end has to wait until the job's name is written down.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            info = self._run_job(repository, who, size.flavour, size.seconds)
            remote.job, remote.seconds, remote.over = info.id, size.seconds, False
            remote.write(self._folder)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        hours = f"{size.seconds / 3600:.3g} h"
        self._say(f"Runs as {info.url} on {size.flavour}, for at most {hours}.")
        return remote

    def _size(self, recipe: dict[str, Any]) -> Size:
        from qvla.methods.recipe import make_recipe

        flavour, hours = self._settings.job_flavor, self._settings.job_hours
        if flavour and hours:  # nothing is left to be planned
            return Size(flavour, int(hours * 3600))
        return size_of(make_recipe(**recipe), flavour, hours)

    def _run_job(self, repository: str, namespace: str, flavour: str, seconds: int) -> Any:
        environment = {
            "QVLA_REPOSITORY": repository,
            "QVLA_SECONDS": str(seconds),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TQDM_DISABLE": "1",
        }
        if os.environ.get("HF_ENDPOINT"):
            environment["HF_ENDPOINT"] = constants.ENDPOINT
        try:
            return self._api.run_job(
                image=IMAGE,
                command=["sh", "-c", START],
                env=environment,
                secrets={"HF_TOKEN": get_token()},
                flavor=flavour,
                timeout=seconds,
                labels={"name": repository.rpartition("/")[2]},
                namespace=namespace,
            )
        except Exception as error:  # whatever the libraries below it raise
            raise _refused(error, flavour) from error

    def _follow(self, remote: Remote) -> None:
        """Says what the job says until it has ended well. Raises QvlaError when it has not."""
        info = self._until_over(remote)
        stage, message = str(info.status.stage), info.status.message or ""
        remote.over = True
        remote.write(self._folder)
        if stage == "COMPLETED":
            return
        with suppress(HubError):  # why it ended is what has to be told
            remote.step = layout.last_step(self._api, remote.repository)
            remote.write(self._folder)
            layout.add_events(self._api, remote.repository, self._folder)
        ran = info.durations.running_secs if info.durations else None
        timed_out = self._out_of_time or "timeout" in message.lower().replace(" ", "")
        if timed_out or "timed out" in message.lower() or (ran or 0) >= remote.seconds:
            raise TryAgain(
                f"Its time-out of {remote.seconds / 3600:.3g} h at Hugging Face was reached "
                "(QVLA_JOB_HOURS sets another)."
            )
        if stage == "CANCELED":
            raise TryAgain("It was cancelled at Hugging Face.")
        if stage == "DELETED":
            raise TryAgain("Its job at Hugging Face is gone.")
        why = message or self._last_words or "it does not say why"
        raise QvlaError(f"Its job at Hugging Face failed ({why.rstrip('.')}): see {info.url}.")

    def _until_over(self, remote: Remote) -> Any:
        """The job as it is when it has ended, with all of its log said."""
        job, account = remote.job, remote.namespace
        pause, silent_since = PAUSE, None
        while True:
            try:
                for line in self._log(remote, follow=True):
                    silent_since = None
                    self._hear(line, remote)
                info = self._api.inspect_job(job_id=job, namespace=account)
                if info.status.stage in OVER:
                    # A connection that was cut looks like the end of the log.
                    for line in self._log(remote, follow=False):
                        self._hear(line, remote)
                    return info
                silent_since = None
                time.sleep(PAUSE)
            except Exception as error:
                if not commits.passes(error):
                    raise self._lost(remote, error) from error
                now = time.monotonic()
                if silent_since is None:
                    silent_since, pause = now, PAUSE
                    self._say("Hugging Face gives no answer; trying again.")
                if now - silent_since > self._patience:
                    raise TryAgain("Hugging Face gave no answer for long.") from error
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            finally:
                remote.write(self._folder)

    def _log(self, remote: Remote, *, follow: bool) -> Iterator[str]:
        """The lines of the job's log that were not heard yet."""
        names: dict[str, Any] = {"job_id": remote.job, "namespace": remote.namespace}
        for count, line in enumerate(self._api.fetch_job_logs(follow=follow, **names)):
            if count >= remote.lines:
                yield line
                remote.lines = count + 1

    def _lost(self, remote: Remote, error: Exception) -> QvlaError:
        """What a refusal to tell of the job means."""
        status = commits.status_of(error)
        if status == 404:
            remote.over = True
            return TryAgain("Its job at Hugging Face is gone.")
        if status in (401, 403):
            return TryAgain("Hugging Face does not let this machine's token see the job any more.")
        return TryAgain(commits.explain("the job", error))

    def _hear(self, line: str, remote: Remote) -> None:
        """Takes in a line of the job's log."""
        if line.startswith(EVENT):
            row = layout.row_in(line.removeprefix(EVENT))
            if row is not None:
                events.relay(self._folder / layout.EVENTS, row)
        elif line.startswith(PUSHED):
            step = line.removeprefix(PUSHED).strip()
            remote.step = int(step) if step.isdigit() else remote.step
            remote.write(self._folder)
        elif line.startswith(OUT_OF_TIME):
            self._out_of_time = True
        else:
            self._last_words = line.strip() or self._last_words
            self._say(line.rstrip("\n"))

    def _say(self, text: str) -> None:
        print(text, flush=True)


def _refused(error: Exception, flavour: str) -> QvlaError:
    """Why no job was started, and what to do."""
    status = commits.status_of(error)
    said = str(getattr(error, "server_message", "") or "").strip().rstrip(".")
    if status == 402:
        return QvlaError(
            "Hugging Face asks for credit before it runs a job: add some at "
            f"{constants.ENDPOINT}/settings/billing, then resume this one."
        )
    if status in (401, 403):
        return QvlaError(
            "Hugging Face does not let this machine's token start jobs: set HF_TOKEN to one with "
            "the right to start Jobs and to write repositories."
        )
    if status in (400, 404, 422):
        why = f" ({said})" if said else ""
        return QvlaError(
            f"Hugging Face refused the job on {flavour}{why}: name another flavour by "
            "QVLA_JOB_FLAVOR."
        )
    if status == 429:
        return TryAgain("Hugging Face has too many jobs or requests of this account: wait a while.")
    return TryAgain(commits.explain("the job", error))


def follow(follower: Follower) -> int:
    """Runs it, and returns the code to end with; the last line that is printed says why."""
    try:
        try:
            follower.run()
            return 0
        except Cancelled:
            follower.cancel()
            print("The job at Hugging Face was cancelled.", flush=True)
            return 128 + signal.SIGINT
    except Leaving:
        return 128 + signal.SIGTERM
    except (TryAgain, HubError) as error:
        print(error, flush=True)
        return TRY_AGAIN if isinstance(error, TryAgain) or error.passes else 1
    except QvlaError as error:
        print(error, flush=True)
        return 1


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patience", type=float, default=1800.0)
    options = parser.parse_args()

    def ask(number: int, frame: object) -> None:
        # The same wish again, as when a whole group is signalled, is not another one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise Cancelled if number == signal.SIGINT else Leaving

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return follow(Follower(options.folder, load_settings(), options.patience))


if __name__ == "__main__":
    sys.exit(main())
