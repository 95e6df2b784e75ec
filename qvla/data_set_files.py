"""The files of a data set on the Hugging Face Hub, and what the hub may say instead.

`qvla.hub` does the same for models.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, get_token, snapshot_download
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

from qvla.dataset import DatasetError

CARD = "README.md"
# Tables, pictures and archives of pictures. Code and pickles are neither fetched nor run.
FETCHED = [CARD, *(f"*.{kind}" for kind in "parquet csv tsv jsonl arrow zip tar".split())]
FETCHED += [f"*.{kind}" for kind in "jpg jpeg png tif tiff webp".split()]


def is_hub_id(source: str | Path) -> bool:
    name = str(source)
    if name.startswith((".", "~")) or name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def snapshot(name: str, revision: str | None) -> Path:
    """The data set's files in the download cache, in a folder named after the commit."""
    try:
        return Path(
            snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=FETCHED)
        )
    except Exception as error:
        raise DatasetError(_explain(name, revision, error)) from error


def _explain(name: str, revision: str | None, error: Exception) -> str:
    page = f"{constants.ENDPOINT}/datasets/{name}"
    if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, which it is too
        access = (
            "then run `hf auth login` or set HF_TOKEN"
            if get_token() is None
            else "or log in with an account that has"
        )
        return f"The data set {name} is gated: accept its terms at {page}, {access}."
    if isinstance(error, RevisionNotFoundError):
        return f"The data set {name} has no revision {revision}: see {page}."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name} is neither a path here nor a data set that this account can see on "
            f"{constants.ENDPOINT}: check the spelling, or log in if it is private."
        )
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        why = (
            "the hub is switched off by HF_HUB_OFFLINE: unset it to download"
            if constants.HF_HUB_OFFLINE
            else f"{constants.ENDPOINT} did not serve it: check the connection"
        )
        return (
            f"{name} is neither a path here nor wholly in the download cache, and {why}, or name "
            "a local folder."
        )
    if isinstance(error, HfHubHTTPError):
        return (
            f"{constants.ENDPOINT} refused the data set {name} with status "
            f"{error.response.status_code}: check your access to it and try again later."
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{name} could not be stored in the download cache: {error.strerror}."
    return (
        f"{name} could not be fetched from {constants.ENDPOINT} ({type(error).__name__}): check "
        "the connection and try again."
    )
