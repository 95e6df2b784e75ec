"""A plan held against the usual GPUs: the smallest that it fits, with a bar, and all by name."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from qvla.ui import units

if TYPE_CHECKING:
    from qvla.planning.planner import Plan


def render_fit(plan: Plan) -> str:
    """The smallest usual GPU, how much of its memory is taken, and every GPU with whether it fits.

    Nothing for a plan of a processor.
    """
    if not plan.fits:
        return ""
    gpus = "".join(
        f'<li data-fits="{str(fit).lower()}"><b>{escape(name)}</b> '
        f"<span>{'fits' if fit else 'too small'}</span></li>"
        for name, _, fit in plan.fits
    )
    return f'{_smallest(plan)}<ul class="gpus">{gpus}</ul>'


def _smallest(plan: Plan) -> str:
    found = next(((name, capacity) for name, capacity, fit in plan.fits if fit), None)
    if found is None:
        return '<p class="notice">No usual GPU is large enough.</p>'
    name, capacity = found
    share = plan.total / capacity
    words = f"{units.size(plan.total)} of {units.size(capacity)}"
    return (
        f'<div class="fit"><p><b>{escape(name)}</b> is the smallest usual GPU that this fits '
        f"<span>{words}</span></p>"
        f'<i class="bar" role="meter" aria-label="Memory taken of {escape(name)}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * share:.0f}" '
        f'aria-valuetext="{words}" style="--share:{share:.3f}"></i></div>'
    )
