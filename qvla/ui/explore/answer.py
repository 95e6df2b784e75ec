"""What was explored, as HTML: the figures, and the code and command with buttons to copy them."""

from __future__ import annotations

from html import escape

from qvla.planning.explorer import Exploration
from qvla.ui import units
from qvla.words import counted


def render_facts(found: Exploration) -> str:
    """The figures as a list of terms."""
    facts = {
        "Trained": f"<b>{found.trainable_params:,}</b> of {found.total_params:,} parameters, "
        f"{found.percent:.4g} %",
        "On disk": f"<b>{units.size(found.adapter_bytes)}</b>, {found.adapter_bytes:,} bytes",
        "To train": _planned(found.train_bytes),
        "To serve": _planned(found.serve_bytes),
        "More to compute": f"<b>{operations(found.token_operations)}</b> a token, "
        f"{operations(found.photo_operations)} a photo, until it is merged",
        "Merges": "yes, into a float base; then it costs nothing more" if found.mergeable else "no",
        "NF4": "works" if found.works_on_nf4 else escape(found.nf4_reason),
        "Places": counted(len(found.sites), "module"),
    }
    shown = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f'<dl class="facts">{shown}</dl>'


def render_code(found: Exploration) -> str:
    """The command line and the Python that do it."""
    return _copied("From a shell", found.command) + _copied("In Python", found.code)


def operations(count: int | None) -> str:
    """Floating-point operations in words."""
    if count is None:
        return "not counted"
    if not count:
        return "none"
    scales = (("trillion", 1e12), ("billion", 1e9), ("million", 1e6), ("thousand", 1e3))
    for unit, scale in scales:
        if count >= scale:
            return f"{count / scale:.3g} {unit} operations"
    return f"{count} operations"


def problem(sentence: str) -> str:
    return f'<p class="problem" role="alert">{escape(sentence)}</p>'


def _planned(count: int | None) -> str:
    return "not planned" if count is None else f"<b>{units.size(count)}</b> on a GPU (planned)"


def _copied(title: str, text: str) -> str:
    return (
        f'<div class="copied"><h4>{title}</h4><button type="button" class="copy" '
        f'aria-label="Copy: {title.lower()}">Copy</button>'
        f'<pre tabindex="0"><code>{escape(text.rstrip())}</code></pre></div>'
    )
