"""Whether a photo is unlike those that a base was trained on, so that little is to be made of what
is said of it.

Told by the Mahalanobis distance of the photo's image features from the training photos', after Lee
et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks" (arXiv 1807.03888): with one Gaussian for all photos, where they have one for each class.
How much the tokens of a photo differ counts beside their mean, by which alone plain drawings look
like photos. Unlike is what lies farther away than 99 of 100 photos that were held out.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from qvla.files import write_bytes

FILE = "familiarity.npz"  # beside the weights of a base that has been measured so
POOLED = "mean and deviation"  # of the tokens; what another version pooled is left out
SHARE = 0.99  # of the held-out photos, that lie within the limit
SHRINKAGE = 1e-2  # of the covariance, towards equal variances: features are nearly dependent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Familiarity:
    """The distances of photos are `|(pooled - mean) @ whitening|`; `limit` is the farthest that is
    still familiar.

    `photos` and `held_out` count what it was fitted on and what set the limit, and `weights` is the
    digest of the base's files (`digest_of`).
    """

    mean: torch.Tensor  # (2W,) float32
    whitening: torch.Tensor  # (2W, 2W) float32, lower triangular
    limit: float
    photos: int
    held_out: int
    weights: str

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """Of photos by their projected image features (N, T, W): (N,), on the CPU."""
        return self.distances_of(pooled(features))

    def distances_of(self, seen: torch.Tensor) -> torch.Tensor:
        """Of photos by their pooled features (N, 2W): (N,)."""
        return ((seen - self.mean) @ self.whitening).norm(dim=1)

    def unfamiliar(self, features: torch.Tensor) -> list[bool]:
        """Whether photos by the same features lie beyond the limit."""
        far: list[bool] = (self.distances(features) > self.limit).tolist()
        return far


def pooled(features: torch.Tensor) -> torch.Tensor:
    """Image features (N, T, W) to their mean and deviation over each photo's tokens, (N, 2W) on
    the CPU.
    """
    deviation, mean = torch.std_mean(features.float(), dim=1, correction=0)
    return torch.cat([mean, deviation], dim=-1).cpu()


def fitted(training: torch.Tensor, held_out: torch.Tensor, weights: str) -> Familiarity:
    """From pooled features, (M, 2W) of training photos and (N, 2W) of held-out ones."""
    seen = training.double()
    mean = seen.mean(0)
    covariance = torch.cov(seen.T)
    equal = covariance.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)
    precision = torch.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * equal)
    whitening = torch.linalg.cholesky(precision)  # of which P = L L^T, so |x L|^2 = x P x^T
    own = Familiarity(mean.float(), whitening.float(), 0.0, len(training), len(held_out), weights)
    limit = torch.quantile(own.distances_of(held_out.float()), SHARE).item()
    return replace(own, limit=limit)


def write(familiarity: Familiarity, folder: Path) -> Path:
    """Puts it beside the weights of the base in that folder; returns the file."""
    told = io.BytesIO()
    np.savez_compressed(  # half of the whitening is zeros
        told,
        pooled=POOLED,
        mean=familiarity.mean.numpy(),
        whitening=familiarity.whitening.numpy(),
        limit=familiarity.limit,
        photos=familiarity.photos,
        held_out=familiarity.held_out,
        weights=familiarity.weights,
    )
    write_bytes(folder / FILE, told.getvalue())
    return folder / FILE


def familiarity_of(model: str) -> Familiarity | None:
    """What lies beside a base's weights in a local folder; None where there is nothing, and where
    it was made for other weights or cannot be read.
    """
    path = Path(model) / FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as told:
            if str(told["pooled"]) != POOLED:
                raise ValueError(f"it is of the tokens' {told['pooled']}, not their {POOLED}")
            found = Familiarity(
                torch.from_numpy(told["mean"]),
                torch.from_numpy(told["whitening"]),
                *(float(told["limit"]), int(told["photos"]), int(told["held_out"])),
                str(told["weights"]),
            )
        if found.whitening.shape != (len(found.mean), len(found.mean)):
            raise ValueError("its parts are of different widths")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is left out, as it cannot be read: %s", path, error)
        return None
    if found.weights != digest_of(path.parent):
        log.warning("%s is left out, as it was made for other weights: make it anew.", path)
        return None
    return found


def digest_of(folder: Path) -> str:
    """The SHA-256 of a checkpoint's weights, all its files by name."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
