"""A visit as the browser keeps it, so that a reload loses nothing: photo, captions and history.

It comes back from the browser, so it is checked like anything else that a visitor sends: a photo is
opened only where uploads lie, and what goes into the page as it is must look like what was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from gradio.data_classes import FileData
from gradio.utils import get_upload_folder
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from qvla.captioning.contenders import NAME
from qvla.ui.compare.history import Comparison
from qvla.ui.compare.offers import MOST
from qvla.ui.compare.voting.mask import is_hidden
from qvla.ui.panes import Pane

MOST_BYTES = 400_000  # browsers keep 5 MB of text for an address, and this is kept encrypted
MOST_COMPARISONS = 50
Name = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]


@dataclass(frozen=True)
class KeptPhoto:
    """A file among the uploads, and what its visitor calls it."""

    path: Annotated[str, StringConstraints(max_length=4096)]
    name: Annotated[str, StringConstraints(max_length=1024)]

    def file(self) -> FileData | None:
        """The file; None when it is gone, or lies elsewhere than uploads do."""
        try:
            path = Path(self.path).resolve()
            here = path.is_relative_to(Path(get_upload_folder()).resolve()) and path.is_file()
        except (OSError, ValueError):
            return None
        return FileData(path=str(path), orig_name=self.name) if here else None


@dataclass(frozen=True)
class Visit:
    """All that a reload brings back. `filled` are the references that came with an example.

    `chosen_panes` names who answers, empty for the default; whether they are there is seen later.
    """

    photo: KeptPhoto | None = None
    references: Annotated[str, StringConstraints(max_length=20_000)] = ""
    filled: Annotated[str, StringConstraints(max_length=20_000)] = ""
    panes: tuple[Pane, ...] = ()
    visited: tuple[Comparison, ...] = field(default=())
    chosen_panes: Annotated[tuple[Name, ...], Field(max_length=MOST)] = ()
    version: Literal[1] = 1


_VISIT = TypeAdapter(Visit)


def kept(
    photo: FileData | None,
    references: str,
    filled: str,
    panes: Sequence[Pane],
    visited: Sequence[Comparison],
    chosen_panes: Sequence[str] = (),
) -> dict[str, Any]:
    """What the browser is given to keep: the oldest comparisons go when it would be too much.

    Captions that are still coming, or to be voted on, are not kept.
    """
    here = None if photo is None else KeptPhoto(photo.path, photo.orig_name or "")
    still = () if any(pane.state.busy or is_hidden(pane) for pane in panes) else tuple(panes)
    last = tuple(visited)[-MOST_COMPARISONS:]
    visit = Visit(here, references, filled, still, last, tuple(chosen_panes))
    while visit.visited and len(_VISIT.dump_json(visit)) > MOST_BYTES:
        visit = replace(visit, visited=visit.visited[1:])
    return _VISIT.dump_python(visit, mode="json")


def read_kept(value: Any) -> Visit | None:
    """What the browser kept; None when there is nothing, or nothing of this version."""
    try:
        return _VISIT.validate_python(value)
    except (ValidationError, RecursionError):
        return None
