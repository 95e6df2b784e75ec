"""How it works in three pictures, out of the way until it is opened."""

from __future__ import annotations

from qvla.ui.glossary import term

LAYERS = (10, 34, 58)  # where the layers of the second picture begin, from the top
PATCHES = range(4)


def how_it_works() -> str:
    """A line to open, with three drawings in the colours of Base, Adapter and QVLA."""
    figures = "".join(
        f'<figure><svg viewBox="0 0 220 84" aria-hidden="true">{drawing}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
        for drawing, caption in (
            (
                _patches(),
                "<b>Base</b> cuts the photo into patches, reads them, and writes its caption "
                f"{term('Token', 'token')} by token.",
            ),
            (
                _bottlenecks(),
                f"<b>Adapter</b> is the same model with a small trained "
                f"{term('Bottleneck', 'bottleneck')} {term('Adapter', 'adapter')} in each layer.",
            ),
            (
                _bits(),
                f"<b>{term('QVLA')}</b> holds the model's weights in the 4 bits of {term('NF4')} "
                "instead of 16 or 32, and has an adapter of its own.",
            ),
        )
    )
    return f'<details class="how"><summary>How it works</summary><div>{figures}</div></details>'


def _patches() -> str:
    cells = "".join(
        f'<rect x="{8 + 17 * column}" y="{8 + 17 * row}" width="15" height="15" '
        f'class="base" opacity="{0.35 + 0.15 * ((row * 3 + column * 2) % 5)}"/>'
        for row in PATCHES
        for column in PATCHES
    )
    words = "".join(
        f'<rect x="{130 + x}" y="{y}" width="{width}" height="8" rx="4" class="base"/>'
        for x, y, width in ((0, 22, 22), (26, 22, 34), (0, 38, 44), (48, 38, 20), (0, 54, 30))
    )
    return f"{cells}{_arrow(86)}{words}"


def _bottlenecks() -> str:
    return "".join(
        f'<rect x="14" y="{y}" width="112" height="16" rx="3" class="frozen"/>'
        f'<path d="M140 {y}h20l-5 8 5 8h-20l5-8z" class="adapter"/>'
        f'<path d="M126 {y + 8}h17M157 {y + 8}h20" class="line"/>'
        for y in LAYERS
    )


def _bits() -> str:
    full, small = range(16), range(4)
    wide = "".join(
        f'<rect x="{8 + 6 * n}" y="28" width="4" height="28" class="frozen"/>' for n in full
    )
    narrow = "".join(
        f'<rect x="{150 + 6 * n}" y="28" width="4" height="28" class="qvla"/>' for n in small
    )
    return f"{wide}{_arrow(112)}{narrow}<path d='M184 28h12l-3 14 3 14h-12l3-14z' class='qvla'/>"


def _arrow(x: int) -> str:
    return f'<path d="M{x} 42h22m-7-6 7 6-7 6" class="line"/>'
