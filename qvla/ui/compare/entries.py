"""What came of a turn, as an entry of the history."""

from __future__ import annotations

from qvla.data.risc import DatasetError
from qvla.ui.compare import photo
from qvla.ui.compare.history import Comparison, now
from qvla.ui.compare.links import digest_of
from qvla.ui.compare.turns import Outcome
from qvla.ui.photo_folder import PhotoFolder
from qvla.ui.pictures import HISTORY_PIXELS, data_uri


def entry_of(outcome: Outcome, examples: PhotoFolder) -> Comparison:
    """With the name of the example that the photo is, if it is one of these, byte for byte."""
    wanted = outcome.run.wanted
    name, digest = photo.photo_name(wanted.photo), digest_of(wanted.photo.path)
    return Comparison(
        time=now(),
        photo=name,
        thumbnail=data_uri(outcome.image, HISTORY_PIXELS),
        decoding=wanted.options,
        references=wanted.references,
        panes=outcome.panes,
        file=wanted.photo.path,
        digest=digest,
        example=name if digest and digest == _digest_of_example(name, examples) else "",
    )


def _digest_of_example(name: str, examples: PhotoFolder) -> str:
    try:
        example = examples.examples().get(name)
    except DatasetError:
        return ""
    return "" if example is None else digest_of(example.image)
