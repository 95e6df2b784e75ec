"""Commits to repositories on the Hugging Face Hub, tried again for as long as what fails may pass.

The token is the machine's own (`HF_TOKEN`, or `hf auth login`). No sentence here has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from qvla.errors import QvlaError

# Another commit came between (409, 412), too many requests (429), or a server is busy (5xx).
PASSING = (408, 409, 412, 425, 429)
PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0)  # seconds between tries


class HubError(QvlaError):
    """The hub did not do what was asked. `passes` says that it may when it is asked again, and
    `status` is what it answered with, if it did.
    """

    def __init__(self, sentence: str, *, passes: bool = False, status: int | None = None) -> None:
        super().__init__(sentence)
        self.passes, self.status = passes, status


def hub() -> HfApi:
    """The hub that this machine's variables name. Raises HubError without a token for it."""
    if get_token() is None:
        raise HubError(
            "This machine has no token of the Hugging Face Hub: set HF_TOKEN to one that may "
            "write, and start the app again."
        )
    return HfApi(endpoint=constants.ENDPOINT)


def account(api: HfApi, *, pauses: Sequence[float] = PAUSES) -> str:
    """The name of the account that this machine's token is of. Raises HubError."""
    try:
        return str(asking(api.whoami, "the account", pauses=pauses, reading=True)["name"])
    except HubError as error:
        if error.status != 401:
            raise
        raise HubError(
            f"{constants.ENDPOINT} does not know this machine's token: set HF_TOKEN to another."
        ) from error


def commit(
    api: HfApi,
    repository: str,
    operations: Sequence[Any],
    message: str,
    *,
    pauses: Sequence[float] = PAUSES,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Makes one commit of the operations, and tries again after each of the pauses (seconds).

    Raises HubError when it is refused, or still fails after the last pause.
    """
    asking(
        lambda: api.create_commit(repository, list(operations), commit_message=message),
        repository,
        pauses=pauses,
        sleep=sleep,
    )


def asking(
    ask: Callable[[], Any],
    what: str,
    *,
    pauses: Sequence[float] = PAUSES,
    sleep: Callable[[float], object] = time.sleep,
    reading: bool = False,
) -> Any:
    """What the hub answers, asked again after each of the pauses. Raises HubError about `what`."""
    for pause in (*pauses, None):
        try:
            return ask()
        except Exception as error:  # whatever the libraries below it raise
            if pause is None or not passes(error):
                sentence = explain(what, error, reading=reading)
                raise HubError(sentence, passes=passes(error), status=status_of(error)) from error
            sleep(pause)
    raise AssertionError("the last try returns or raises")


def status_of(error: BaseException) -> int | None:
    """The status that the hub answered with; None where it gave no answer."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def passes(error: BaseException) -> bool:
    """Whether the same may well be done a little later."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = status_of(error)
    if status is not None:
        return status in PASSING or status >= 500
    # The last is how a download tells that nobody answered.
    return isinstance(error, (HTTPError, ConnectionError, TimeoutError, LocalEntryNotFoundError))


def explain(what: str, error: BaseException, *, reading: bool = False) -> str:
    """Why `what`, a repository or what was asked for, was not written or read; and what to do."""
    if isinstance(error, OfflineModeIsEnabled):
        return "The hub is switched off by HF_HUB_OFFLINE: unset it to push."
    status, verb = status_of(error), "read" if reading else "write to"
    if status in (401, 403):
        return (
            f"{constants.ENDPOINT} does not let this machine's token {verb} {what}: use a "
            "token that may, or another owner."
        )
    if status is not None:
        return f"{constants.ENDPOINT} refused {what} with status {status}: try again later."
    done = "fetched from" if reading else "pushed to"
    return (
        f"{what} could not be {done} {constants.ENDPOINT} ({type(error).__name__}): check "
        "the connection and try again."
    )
