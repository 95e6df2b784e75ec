"""Where a photo enters: upload, drag or paste. The file goes to `qvla.data.imagery` as it came.

Gradio's own image component decodes uploads itself, fails on odd files with words of its own, and
has the browser show them, which knows no TIFF. This one hands over the raw file and shows a preview
that the server made.
"""

from __future__ import annotations

from functools import cache
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder
from pydantic import ValidationError

from qvla.data import imagery
from qvla.errors import QvlaError
from qvla.settings import ASSETS, Settings
from qvla.ui.pictures import PREVIEW_PIXELS, data_uri
from qvla.ui.uploads import FilesThemselves, WithoutStub

SCRIPT = (ASSETS / "ui" / "photo.js").read_text(encoding="utf-8")

_refusals = count()

TEMPLATE = """
<div class="photo-drop" data-filled="${Boolean(view)}">
  <input class="sr-only" type="file" id="${place}-file" tabindex="-1" aria-hidden="true"
         aria-label="Photo file">
  <div class="photo-view">${view}</div>
  <button type="button" class="photo-pick" aria-describedby="${place}-hint">
    <span class="photo-pick-title">${view ? "Replace the photo" : "Choose a photo"}</span>
    <span id="${place}-hint" class="photo-hint">${hint}</span>
  </button>
  <button type="button" class="photo-zoom" ${zooms && view ? "" : "hidden"}>Zoom</button>
  <p class="photo-busy" role="status"></p>
</div>
<p class="photo-problem" role="alert">${problem}</p>
<p class="photo-note" role="status">${note}</p>
"""


class PhotoInput(FilesThemselves, gr.HTML, metaclass=WithoutStub):
    """A drop zone whose value is the uploaded file. Events: `upload`, and `oversize` instead;
    with `zooms` also `zoom`, when the photo is pressed, which else is as if it were to be replaced.

    `view` is the preview as HTML, `problem` the sentence to show below, `note` what was taken for
    what in a file that leaves room for doubt. Ids within begin with `place`.
    """

    def __init__(
        self,
        value: Any = None,
        *,
        view: str = "",
        problem: str = "",
        note: str = "",
        hint: str = "",
        place: str = "photo",
        max_bytes: int = 0,
        zooms: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("html_template", TEMPLATE)
        kwargs.setdefault("js_on_load", SCRIPT)
        kwargs.setdefault("apply_default_css", False)
        super().__init__(
            value=value,
            view=view,
            problem=problem,
            note=note,
            hint=hint,
            place=place,
            max_bytes=max_bytes,
            zooms=zooms,
            **kwargs,
        )

    def preprocess(self, payload: object) -> FileData | None:
        """The uploaded file; None while there is none, for which the browser sends "".

        Gradio has checked that the file lies in its upload folder, but only if the payload is
        marked as a file: without the mark it must not be opened.
        """
        try:
            return FileData.model_validate(payload, context={"validate_meta": True})
        except ValidationError:
            return None

    def postprocess(self, value: FileData | None) -> FileData | None:
        return value

    def api_info(self) -> dict[str, Any]:
        return {**_file_schema(), "description": "the photo's file"}

    def example_payload(self) -> Any:
        return None

    def example_value(self) -> Any:
        return None


@cache
def _file_schema() -> dict[str, Any]:
    """Gradio asks for it at every update of the component, and it takes milliseconds to make."""
    return FileData.model_json_schema()


def photo_input(settings: Settings, place: str = "photo", zooms: bool = False) -> PhotoInput:
    """`place` is the element's id, with which those within begin; `zooms` as in PhotoInput."""
    return PhotoInput(
        hint="or drop or paste one here: PNG, JPEG, WebP or TIFF "
        f"up to {settings.max_upload_mb} MB",
        max_bytes=settings.max_upload_bytes,
        place=place,
        zooms=zooms,
        elem_id=place,
        label="Photo",
    )


def open_photo(photo: FileData | None, settings: Settings) -> imagery.Photo:
    """The uploaded file as an RGB image and remarks; raises QvlaError with one sentence."""
    if photo is None:
        raise QvlaError("Choose a photo first.")
    return imagery.read_photo(
        photo.path, max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels
    )


def photo_name(photo: FileData) -> str:
    return photo.orig_name or Path(photo.path).name


def shown(photo: FileData, opened: imagery.Photo) -> PhotoInput:
    """The update that shows this photo."""
    name = escape(photo_name(photo))
    size = "{} × {}".format(*opened.size)
    preview = data_uri(opened.image, PREVIEW_PIXELS)
    return PhotoInput(
        value=photo,
        problem="",
        note=escape(" ".join(opened.notes)),
        view=f'<figure><img src="{preview}" alt="The chosen photo, {name}">'
        f"<figcaption><b>{name}</b> <span>{size} pixels</span></figcaption></figure>",
    )


def refused(sentence: str, photo: FileData | None) -> PhotoInput:
    """The update that says what is wrong with a file; `photo` is the one that stays.

    The number makes the same sentence news when it comes twice, to the page and to screen readers.
    """
    problem = f'<span data-number="{next(_refusals)}">{escape(sentence)}</span>'
    return PhotoInput(value=photo, problem=problem)


def too_large(settings: Settings) -> str:
    """What `open_image` would say of a file that the browser does not even send."""
    return (
        f"This file is larger than the {settings.max_upload_mb} MB allowed; upload a smaller one."
    )


def in_cache(path: Path) -> FileData:
    """A photo of the server's own, copied to where uploads lie, so that it is handled like one."""
    copy = processing_utils.save_file_to_cache(path, get_upload_folder())
    return FileData(path=copy, orig_name=path.name)
