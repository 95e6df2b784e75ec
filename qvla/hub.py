"""From a name to a folder: a folder stays what it is, a hub id is fetched or found in the cache.

Everything after this file reads local folders only, so this is the one place that knows what the
Hugging Face Hub can answer, of models and of data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from qvla import proxies
from qvla.errors import QvlaError

ASKED_FOR = 10.0  # seconds, of a question that the app's start waits for


def local_folder(name: str | Path, files: Sequence[str], fault: type[QvlaError]) -> Path:
    """The folder that holds the weights called `name`, downloading `files` of a hub id if need be.

    Args:
        name: a folder, or the id of a model repository on the hub (`owner/model`).
        files: patterns of the files to fetch; weights in pickle formats must not be among them.
        fault: the error class to raise, with a sentence that says what to do.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise fault(f"{name} is a file: name the folder that holds it.")
    if isinstance(name, Path) or not is_hub_id(name):
        raise fault(f"There is no folder {name}: check the path, or name a model on the hub.")
    try:
        # Files of the same kinds in sub-folders belong to other formats, unless they are named.
        ignored = None if any("/" in file for file in files) else "*/*"
        return Path(snapshot_download(name, allow_patterns=list(files), ignore_patterns=ignored))
    except Exception as error:
        raise fault(_explain(name, error, "model", None)) from error


def cached_file(name: str, file: str) -> Path | None:
    """A file of a hub id as it lies in the download cache; None where it does not. Asks nobody."""
    found = try_to_load_from_cache(name, file) if is_hub_id(name) else None
    return Path(found) if isinstance(found, str) else None


def is_withheld(name: str) -> bool:
    """Whether `name` is a gated model that the hub does not give to this machine's account.

    False where the download cache has it, and where the hub cannot be asked within seconds: what
    is wrong then, loading tells.
    """
    if Path(name).expanduser().exists() or not is_hub_id(name):
        return False
    if cached_file(name, "config.json") is not None:
        return False
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=ASKED_FOR)
    except GatedRepoError:
        return True
    except Exception:
        return False
    return False


def page_of(name: str) -> str:
    """Where a model's licence is read and accepted."""
    return f"{constants.ENDPOINT}/{name}"


def data_set_folder(
    name: str, files: Sequence[str], revision: str | None, fault: type[QvlaError]
) -> Path:
    """The files of a data set in the download cache, in a folder named after the commit."""
    try:
        return Path(
            snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=list(files)
            )
        )
    except Exception as error:
        raise fault(_explain(name, error, "data set", revision)) from error


def is_hub_id(name: str | Path) -> bool:
    """Whether the name could be `owner/name` on the hub, and no path."""
    name = str(name)
    if name.startswith((".", "~")) or name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _explain(name: str, error: Exception, kind: str, revision: str | None) -> str:
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'data set' else ''}{name}"
    if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, which it is too
        if get_token() is None:
            return (
                f"{name} is gated and this machine is not logged in to the hub: accept its terms "
                f"at {page}, then run `hf auth login` or set HF_TOKEN."
            )
        return (
            f"{name} is gated and the account of this machine's token may not read it: accept its "
            f"terms at {page}, or log in with another token."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision}: see {page}."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name} is neither a path here nor a {kind} that this account can see on "
            f"{constants.ENDPOINT}: check the spelling, or log in if it is private."
        )
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        if constants.HF_HUB_OFFLINE:
            return (
                f"{name} is neither a path here nor wholly in the download cache, and the hub is "
                "switched off by HF_HUB_OFFLINE: unset it to download, or name a local folder."
            )
        return (
            f"{name} is neither a path here nor wholly in the download cache, and "
            f"{constants.ENDPOINT} did not serve it: check the connection, or name a local folder."
        )
    if isinstance(error, HfHubHTTPError):
        return (
            f"{constants.ENDPOINT} refused {name} with status {error.response.status_code}: "
            "check your access to it and try again later."
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{name} could not be stored in the download cache: {error.strerror}."
    if (fault := proxies.fault()) is not None:
        return f"{name} could not be fetched from {constants.ENDPOINT}. {fault}"
    return (
        f"{name} could not be fetched from {constants.ENDPOINT} ({type(error).__name__}): check "
        "the connection and try again."
    )
