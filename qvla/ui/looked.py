"""Where each pane's model looked in the photo, as heat maps made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.data_classes import FileData
from PIL import Image

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui import zerogpu
from qvla.ui.compare import photo
from qvla.ui.compare.voting.mask import is_hidden
from qvla.ui.panes import Pane, PaneState
from qvla.ui.pictures import data_uri
from qvla.ui.queue_state import CAPTIONS

if TYPE_CHECKING:
    from qvla.captioning.lineup import Lineup

HEAT = (255, 170, 0)  # the colour of what was looked at
DARKEST = 0.35  # of the photo's light that is left where nothing was looked at
STRONGEST = 0.5  # of the colour where most was
MAP_PIXELS = 360
LEAD = (
    "The brighter, the more of the decoder's attention the part had while the words were said: a "
    "hint at what counted, and no proof."
)
NOTHING = "There is nothing to look into yet."
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
Update = dict[Any, Any]


class LookedSection:
    """A button, and a map for each pane that has said something."""

    def __init__(self, settings: Settings, loader: LineupLoader, ids: str) -> None:
        self.settings, self.loader, self.ids = settings, loader, ids
        self.button = gr.Button("Where it looked", size="sm", elem_id=f"{ids}-look")
        self.maps = gr.HTML("", elem_id=f"{ids}-looked", label="Where it looked")

    @property
    def outputs(self) -> list[Any]:
        return [self.maps]

    def cleared(self) -> Update:
        """The update that takes the maps away, as those of other words or another photo."""
        return {self.maps: ""}

    def wire(self, chosen: gr.State, shown: gr.State, question: gr.State | None = None) -> None:
        """`chosen` holds the photo, `shown` the panes, and `question` what they answer."""
        given = [] if question is None else [question]
        self.button.click(
            self._look,
            inputs=[chosen, shown, *given],
            outputs=[self.maps],
            concurrency_id=CAPTIONS,
            concurrency_limit=self.settings.concurrency,
            show_progress="minimal",
            api_name=f"look_{self.ids}".replace("-", "_"),
            api_visibility="undocumented",
        )

    def _look(
        self, chosen: FileData | None, panes: tuple[Pane, ...], question: str = ""
    ) -> Iterator[str]:
        done = [pane for pane in panes if pane.text and pane.state is PaneState.DONE]
        said = [pane for pane in done if not is_hidden(pane)]
        lineup = self.loader.lineup
        if chosen is None or lineup is None or not said:
            yield f'<p class="empty" role="status">{NOTHING}</p>'
            return
        try:
            image = photo.open_photo(chosen, self.settings).image
        except QvlaError as error:
            yield f'<p class="problem" role="alert">{escape(str(error))}</p>'
            return
        figures: list[str] = []
        for pane in said:
            figures.append(_figure(lineup, image, pane, question))
            yield _section(figures, busy=len(figures) < len(said))


def heat_map(image: Image.Image, shares: np.ndarray) -> Image.Image:
    """The photo, darkened where `shares` (G, G) of the attention are low and tinted where they are
    high, from the least to the most that there is.
    """
    picture = image.copy()
    picture.thumbnail((MAP_PIXELS, MAP_PIXELS))
    low, high = float(shares.min()), float(shares.max())
    steps = Image.fromarray(np.round(255 * (shares - low) / ((high - low) or 1)).astype(np.uint8))
    heat = np.asarray(steps.resize(picture.size, Image.Resampling.BICUBIC), np.float32) / 255
    heat = heat[..., None]  # (H, W, 1)
    light = np.asarray(picture, np.float32) * (DARKEST + (1 - DARKEST) * heat)
    tint = STRONGEST * heat
    mixed = light * (1 - tint) + np.array(HEAT, np.float32) * tint
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def place_of(shares: np.ndarray) -> str:
    """In words where most of the attention lies, of three rows and columns each."""
    side = len(shares)
    bands = np.arange(side) * 3 // side
    sums = np.array([[shares[bands == r][:, bands == c].sum() for c in range(3)] for r in range(3)])
    row, column = divmod(int(sums.argmax()), 3)
    if (row, column) == (1, 1):
        return "the centre"
    return f"the {ROWS[row]} {COLUMNS[column]}"


def _figure(lineup: Lineup, image: Image.Image, pane: Pane, question: str) -> str:
    from qvla.captioning.prompts import prompt_of

    title = escape(pane.title)
    try:
        looked = zerogpu.where_it_looked(lineup, pane.name, image, prompt_of(question), pane.text)
    except QvlaError as error:
        said = f'<p class="problem">{escape(str(error))}</p>'
        return f"<figure>{said}<figcaption><b>{title}</b></figcaption></figure>"
    source = data_uri(heat_map(image, looked.answer), MAP_PIXELS)
    place = place_of(looked.answer)
    return (
        f'<figure><img src="{source}" alt="{title} looked most at {place} of the photo">'
        f"<figcaption><b>{title}</b> <span>most at {place}; its {looked.answer.size} parts had "
        f"{100 * looked.answer.min():.1f} to {100 * looked.answer.max():.1f} % each</span>"
        "</figcaption></figure>"
    )


def _section(figures: Sequence[str], *, busy: bool) -> str:
    return (
        f'<p class="lead">{LEAD}</p><div class="looked" aria-busy="{str(busy).lower()}">'
        f"{''.join(figures)}</div>"
    )
