"""The layers of a model with the touched ones lit, and the matrices of one site, drawn as SVG.

Pure functions of what was explored. Sizes are in pixels of a telephone's width, and nothing shrinks
below them: the pictures grow with the page up to a limit that the style sheet has.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby, pairwise
from math import sqrt

from qvla.planning.sites import Site, Tower
from qvla.words import counted

WIDTH, LABELS, ROW, HEAD = 340, 104, 18, 24
LARGEST = 96  # pixels of a matrix's longest side


def draw_layers(towers: Sequence[Tower], others: Sequence[Site] = ()) -> str:
    """Both towers from the photo to the caption: a column a layer, a row a module of it.

    `others` are touched modules outside the layers, such as the projector; they are named.
    """
    parts, top = [], 0
    for tower in towers:
        parts.append(_tower(tower, top))
        top += HEAD + ROW * len(tower.rows) + 26
    for place in dict.fromkeys(_short(site.name) for site in others):
        parts.append(f'<rect class="lit" x="0" y="{top + 3}" width="10" height="10"/>')
        parts.append(f'<text x="16" y="{top + 12}">{escape(place)}</text>')
        top += ROW
    words = layers_in_words(towers, others)
    return (
        f'<svg class="layers" viewBox="0 0 {WIDTH} {top}" role="img" '
        f'aria-labelledby="layers-title layers-words"><title id="layers-title">Layers that are '
        f'touched</title><desc id="layers-words">{escape(words)}</desc>{"".join(parts)}</svg>'
        f'<p class="lead">{escape(words)}</p>'
    )


def layers_in_words(towers: Sequence[Tower], others: Sequence[Site] = ()) -> str:
    """What is lit, as sentences."""
    told = []
    for tower in towers:
        lit = {row: [layer for layer, own in tower.lit if own == row] for row in tower.rows}
        found = [(row, _ranges(layers)) for row, layers in lit.items() if layers]
        if not found:
            told.append(f"{tower.title}, {counted(tower.layers, 'layer')}: none touched.")
            continue
        by_layers: dict[str, list[str]] = {}
        for row, layers in found:
            by_layers.setdefault(layers, []).append(_short(row))
        which = "; ".join(f"{', '.join(rows)} in {layers}" for layers, rows in by_layers.items())
        told.append(f"{tower.title}, {counted(tower.layers, 'layer')}: {which}.")
    if others:
        names = dict.fromkeys(_short(site.name) for site in others)
        told.append(f"Besides: {', '.join(names)}.")
    return " ".join(told)


def draw_matrices(site: Site) -> str:
    """A site's own matrix, and what is added to it, with their real sizes.

    Sides are drawn to the square root of their sizes, so that a rank can be seen beside a width.
    """
    matrices = {name: shape for name, shape in site.added.items() if len(shape) == 2}
    whole = {}
    if site.inputs is not None and site.outputs is not None:
        whole = {f"W of {_short(site.name)}": (site.outputs, site.inputs)}
    shown = [*whole.items(), *matrices.items()]
    if not shown:
        return ""
    most = max(side for _, shape in shown for side in shape)
    x, top, parts, lines = 0.0, 0.0, [], []
    for number, (name, (rows, columns)) in enumerate(shown):
        height, width = (max(3.0, LARGEST * sqrt(side / most)) for side in (rows, columns))
        if x + width > WIDTH:
            x, top = 0.0, top + LARGEST + 10
        kind = "frozen" if name in whole else "lit"
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"/>'
        )
        middle, below = x + width / 2, top + height / 2 + 4
        if width > 12 and height > 14:
            parts.append(
                f'<text x="{middle:.1f}" y="{below:.1f}" class="on-{kind}" text-anchor="middle">'
                f"{number + 1}</text>"
            )
        lines.append(f"{number + 1}. {_plain(name)}: {rows:,} × {columns:,}")
        x += width + 14
    top += LARGEST + 12
    text = "".join(
        f'<text x="0" y="{top + 18 * number + 10:.0f}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    bottom = top + 18 * len(lines) + 2
    return (
        f'<svg class="matrices" viewBox="0 0 {WIDTH} {bottom:.0f}" role="img" '
        'aria-labelledby="matrices-title matrices-words"><title id="matrices-title">Matrices of '
        f'one site</title><desc id="matrices-words">{escape("; ".join(lines))}</desc>'
        f"{''.join(parts)}{text}</svg>"
    )


def _tower(tower: Tower, top: float) -> str:
    step = (WIDTH - LABELS) / tower.layers
    size = max(step - (1.5 if step > 6 else 0.7), 1)
    parts = [f'<text class="title" x="0" y="{top + 14}">{escape(tower.title)}</text>']
    for number, row in enumerate(tower.rows):
        y = top + HEAD + ROW * number
        parts.append(f'<text x="0" y="{y + 12}">{escape(_short(row))}</text>')
        for layer in range(tower.layers):
            lit = "lit" if (layer, row) in tower.lit else "unlit"
            x = LABELS + step * layer
            parts.append(
                f'<rect class="{lit}" x="{x:.1f}" y="{y}" width="{size:.1f}" height="{ROW - 4}"/>'
            )
    foot = top + HEAD + ROW * len(tower.rows) + 12
    parts.append(f'<text x="{LABELS}" y="{foot}">layer 0</text>')
    parts.append(f'<text x="{WIDTH}" y="{foot}" text-anchor="end">{tower.layers - 1}</text>')
    return "".join(parts)


def _ranges(layers: Sequence[int]) -> str:
    """Layers in words: runs of them, or their rule where they have one."""
    ordered = sorted(layers)
    steps = {b - a for a, b in pairwise(ordered)}
    if len(ordered) > 2 and len(steps) == 1 and (step := steps.pop()) > 1:
        return f"layers {ordered[0]} to {ordered[-1]}, every {step}"
    runs = []
    for _, run in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0]):
        ends = [layer for _, layer in run]
        runs.append(f"{ends[0]} to {ends[-1]}" if len(ends) > 1 else str(ends[0]))
    return ("layers " if len(ordered) > 1 else "layer ") + ", ".join(runs)


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _plain(name: str) -> str:
    """A tensor's own name, without the modules that hold it."""
    return name.removesuffix(".weight").rpartition(".")[2]
