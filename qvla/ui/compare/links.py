"""Links to one comparison: who answers, how, and of which photo; never the photo itself.

An example is named, any other photo told by the SHA-256 of its file: who opens the link brings it.
`?example=marina.jpg&panes=base,qvla&max_new_tokens=40&num_beams=1&temperature=0&top_p=1`
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from qvla.captioning.contenders import MOST, NAME
from qvla.errors import QvlaError
from qvla.ui.compare.controls import LONGEST

LONGEST_LINK = 2000  # letters; browsers take as many
Named = Annotated[str, StringConstraints(max_length=255)]


class LinkError(QvlaError):
    """A link cannot be followed; the message says why."""


class Link(BaseModel):
    """What a link asks for. The decoding's bounds are those of the sliders."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    example: Named = ""
    photo: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    name: Named = ""
    panes: tuple[Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")], ...] = Field(
        (), max_length=MOST
    )
    max_new_tokens: int = Field(40, ge=1, le=LONGEST)
    num_beams: int = Field(1, ge=1, le=8)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0.05, le=1)
    seed: Annotated[str, StringConstraints(pattern=r"^\d{0,30}$")] = ""

    @property
    def decoding(self) -> tuple[int, int, float, float, str]:
        """In the order of `DecodingControls`."""
        return self.max_new_tokens, self.num_beams, self.temperature, self.top_p, self.seed


def link_to(
    decoding: Mapping[str, Any],
    names: Sequence[str],
    *,
    example: str = "",
    photo: str = "",
    name: str = "",
) -> str:
    """The query of a link, with its question mark."""
    told = {"example": example, "photo": photo, "name": name, "panes": ",".join(names), **decoding}
    kept = {key: value for key, value in told.items() if value not in ("", None)}
    return f"?{urlencode(kept, safe=',')}"


def read_link(query: str) -> Link | None:
    """What the page's address asks for; None where it names no photo. Raises LinkError."""
    if not isinstance(query, str) or not query.startswith("?"):
        return None
    fields: dict[str, Any] = dict(parse_qsl(query[1 : LONGEST_LINK + 1]))
    if not fields.get("example") and not fields.get("photo"):
        return None
    if len(query) > LONGEST_LINK:
        raise LinkError("This link is too long to be one that was copied here.")
    fields["panes"] = [one for one in fields.get("panes", "").split(",") if one]
    try:
        return Link(**fields)
    except ValidationError as error:
        wrong = ".".join(str(step) for step in error.errors()[0]["loc"])
        raise LinkError(f"This link cannot be followed: its {wrong} makes no sense.") from error


def digest_of(path: str | Path) -> str:
    """The SHA-256 of a file; "" where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
