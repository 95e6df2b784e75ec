"""What a fine-tune will take, as the form shows it before it is queued."""

from __future__ import annotations

from html import escape
from pathlib import Path

from qvla.methods.command import command_line
from qvla.methods.recipe import Recipe
from qvla.tuning.forecast import Forecast
from qvla.ui import units
from qvla.ui.admin.job_list import duration
from qvla.ui.gpu_fit import render_fit
from qvla.words import counted


def render_forecast(found: Forecast, recipe: Recipe) -> str:
    """Trained parameters, memory and GPUs, photos and steps, time, and the command line."""
    here = "" if recipe.device == "cuda" else f"; on this machine {units.size(found.here.total)}"
    facts = {
        "Trained": f"<b>{found.trained:,}</b> parameters, {found.percent:.3g} % of the base's "
        f"{found.base:,}",
        "Memory": f"<b>{units.size(found.plan.total)}</b> on a GPU{here} (planned)",
        "Steps": _steps(found),
        "Time": _time(found),
    }
    shown = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    # The job has a folder of its own; a run from a shell names one.
    command = command_line(recipe.model_copy(update={"output": Path("runs") / recipe.method}))
    return (
        f'<h3>What it will take</h3><dl class="facts">{shown}</dl>{render_fit(found.plan)}'
        f"<details class='command'><summary>The same from a shell</summary>"
        f'<pre tabindex="0"><code>{escape(command)}</code></pre></details>'
    )


def _steps(found: Forecast) -> str:
    if found.photos is None:
        photos = "photos are counted once the data is fetched"
    else:
        photos = counted(found.photos, "photo")
    return photos if found.steps is None else f"<b>{found.steps:,}</b>, from {photos}"


def _time(found: Forecast) -> str:
    if found.speed is None:
        return "not foreseen: no run of this method on this base was measured yet"
    basis = f"{found.speed.images_per_second:.3g} images/s in {escape(found.speed.source)}"
    if found.seconds is None:
        return f"not foreseen without the number of photos ({basis})"
    about = "about " if found.seconds >= 1 else ""
    return f"{about}<b>{duration(found.seconds)}</b> without evaluations, by {basis}"
