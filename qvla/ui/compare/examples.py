"""The example photos to pick from, the coarse ones apart, on which the small model guesses."""

from __future__ import annotations

import gradio as gr

from qvla.ui.grid import photo_grid, render_tiles, tiles_of
from qvla.ui.photo_folder import PhotoFolder, examples_or_none

COARSE = "Landsat"  # as the examples' table names their source
TITLE, COARSE_TITLE = "Examples", "Coarser than the small model knows: Landsat, 30 m a pixel"


def example_grid(folder: PhotoFolder, elem_id: str = "examples") -> gr.HTML:
    """All examples of a folder under one heading, or under two; hidden where there are none."""
    examples = examples_or_none(folder)
    coarse = [example for example in examples if example.source == COARSE]
    sharp = [example for example in examples if example.source != COARSE]
    parts = []
    for title, some in ((TITLE, sharp), (COARSE_TITLE if sharp else TITLE, coarse)):
        if some:
            parts.append(f'<h2 class="tiles-title">{title}</h2>')
            parts.append(render_tiles(tiles_of(some), title))
    return photo_grid("".join(parts), visible=bool(parts), elem_id=elem_id, label="Photo")
