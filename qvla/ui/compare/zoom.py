"""The photo large, beside what the model is given of it, and a part of it to caption instead."""

from __future__ import annotations

from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder
from PIL import Image

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import ASSETS, Settings
from qvla.ui.compare import photo
from qvla.ui.pictures import PREVIEW_PIXELS, data_uri

SCRIPT = (ASSETS / "ui" / "zoom.js").read_text(encoding="utf-8")
SHOW = "() => document.querySelector('#zoom dialog')?.showModal()"
SMALLEST = 0.1  # part of a side
NOT_YET = "What the model sees can be shown once its weights are loaded."
Update = dict[Any, Any]


class Zoom:
    """A dialog that a press on the photo opens. Its `view` has the event `crop`."""

    def __init__(self, settings: Settings, loader: LineupLoader) -> None:
        self.settings, self.loader = settings, loader
        self.view = gr.HTML(
            None,
            dialog="",
            html_template="${dialog}",
            js_on_load=SCRIPT,
            apply_default_css=False,
            elem_id="zoom",
            label="Part of the photo",
        )

    def wire(self, photo_input: photo.PhotoInput, chosen: gr.State) -> None:
        """`chosen` holds the photo that `photo_input` shows."""
        photo_input.zoom(
            self._open,
            inputs=[chosen],
            outputs=[self.view],
            queue=False,
            show_progress="hidden",
            api_name="zoom",
            api_visibility="undocumented",
        ).then(None, js=SHOW)

    def part(self, wanted: str | None, chosen: FileData | None) -> FileData:
        """The part of the photo that was asked for, as a photo of its own. Raises QvlaError."""
        if chosen is None:
            raise QvlaError("Choose a photo first.")
        image = photo.open_photo(chosen, self.settings).image
        stem = Path(photo.photo_name(chosen)).stem
        path = processing_utils.save_pil_to_cache(
            image.crop(box_of(wanted, image.size)),
            cache_dir=get_upload_folder(),
            name=f"part of {stem}",
            format="png",
        )
        return FileData(path=path, orig_name=f"part of {stem}.png")

    def _open(self, chosen: FileData | None) -> gr.HTML:
        if chosen is None:
            return gr.HTML(dialog="")
        try:
            opened = photo.open_photo(chosen, self.settings)
        except QvlaError as error:
            return gr.HTML(dialog=_dialog(f'<p class="problem">{escape(str(error))}</p>'))
        name = escape(photo.photo_name(chosen))
        large = data_uri(opened.image, PREVIEW_PIXELS)
        size = "{} × {}".format(*opened.size)
        return gr.HTML(
            dialog=_dialog(
                f'<div class="zoom-pictures"><figure><div class="zoom-photo"><img src="{large}" '
                f'alt="The photo {name}"><i class="zoom-part" hidden></i></div>'
                f"<figcaption><b>{name}</b> {size} pixels</figcaption></figure>"
                f"{self._seen(opened.image)}</div>{_sliders()}"
            )
        )

    def _seen(self, image: Image.Image) -> str:
        lineup = self.loader.lineup
        names = [one.name for one in lineup.variants() if one.available] if lineup else []
        if lineup is None or not names:
            return f"<p>{NOT_YET}</p>"
        from qvla.captioning.prompts import as_seen

        picture = as_seen(lineup.shared(names[0]).loaded.processor, image)
        source = data_uri(picture, max(picture.size))
        size = "{} × {}".format(*picture.size)
        return (
            f'<figure><img class="zoom-seen" src="{source}" alt="The photo as the model sees it">'
            f"<figcaption><b>What the model sees</b> {size} pixels</figcaption></figure>"
        )


def box_of(wanted: str | None, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """`left top size`, each a share of the photo, as pixels of a photo of this size (W, H): its
    left, upper, right and lower edge. Raises QvlaError for what is no part of a photo.
    """
    try:
        left, top, side = map(float, (wanted or "").split())
    except ValueError:
        left = top = side = float("nan")
    inside = all(isfinite(value) and 0 <= value <= 1 for value in (left, top, side))
    if not inside or side < SMALLEST or max(left, top) + side > 1.001:
        raise QvlaError("Choose a part within the photo, a tenth of its side at least.")
    width, height = size
    across, down = max(1, round(side * width)), max(1, round(side * height))
    x, y = min(round(left * width), width - across), min(round(top * height), height - down)
    return x, y, x + across, y + down


def _dialog(inner: str) -> str:
    return (
        '<dialog class="zoom" aria-label="The photo, large"><form method="dialog">'
        f'<button class="zoom-close">Close</button></form>{inner}</dialog>'
    )


def _sliders() -> str:
    part = (
        '<label>Part of the photo <input type="range" name="part" min="10" max="100" value="100">'
        "</label>"
    )
    places = "".join(
        f'<label>{name.capitalize()} <input type="range" name="{name}" min="0" max="100" '
        'value="50" disabled></label>'
        for name in ("across", "down")
    )
    return (
        f'<div class="zoom-choice">{part}{places}'
        '<button type="button" class="zoom-go" disabled>Caption this part</button></div>'
    )
