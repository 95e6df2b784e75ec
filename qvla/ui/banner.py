"""The banner: which model runs, on what device, and how to run the real one."""

from __future__ import annotations

from html import escape
from pathlib import Path

from qvla.captioning.loader import LineupLoader, Phase
from qvla.captioning.standing_in import steps
from qvla.settings import EMBEDDED_MODEL, Settings
from qvla.ui.compare.how import how_it_works

REAL_MODEL = "google/paligemma-3b-pt-224"
REAL_MODEL_COMMANDS = f"""\
hf auth login      # after accepting the licence at https://huggingface.co/{REAL_MODEL}
export QVLA_MODEL={REAL_MODEL}
export QVLA_ADAPTER=path/to/adapter QVLA_NF4_ADAPTER=path/to/qvla
python app.py      # its weights take 5.9 GB in bf16 and 2.3 GB in NF4"""

# What `page.js` shows in place of the status, by an attribute of the page, once nobody answers.
GONE = (
    '<p class="gone" role="alert"><span class="lamp" aria-hidden="true"></span>'
    '<b>The app does not answer.</b> <span class="gone-off">It was closed, or the connection is '
    'lost: this page goes on as soon as it answers again.</span><span class="gone-new">It has been '
    "started again: reload the page to go on. Photo, captions and history stay.</span></p>"
)


def render_banner(settings: Settings, loader: LineupLoader) -> str:
    """The banner for what the loader is doing now."""
    state = loader.state()
    if state.phase is Phase.LOADING:
        status = "Loading the weights"
        detail = f"{escape(state.message)} You can choose a photo meanwhile."
    elif state.phase is Phase.FAILED:
        status = "No captions yet"
        detail = escape(state.message)
    else:
        status = "Ready"
        detail = _what_runs(settings, loader)
    return (
        f'<section class="banner" data-phase="{state.phase.value}" aria-label="Which model runs">'
        f'<p role="status"><span class="lamp" aria-hidden="true"></span><b>{status}.</b> '
        f"<span>{detail}</span></p>{GONE}{_stands_in(settings)}"
        f'<div class="more">{how_it_works()}{_how_to_run_the_real_one(settings)}</div></section>'
    )


def is_embedded(settings: Settings) -> bool:
    return Path(settings.model).resolve() == EMBEDDED_MODEL.resolve()


def device_name(device: str) -> str:
    """`cuda:0` as the name of the card; the CPU as such."""
    if not device.startswith("cuda"):
        return device.upper()
    import torch

    return f"{torch.cuda.get_device_name(device)} ({device})"


def _what_runs(settings: Settings, loader: LineupLoader) -> str:
    variants = [variant for variant in loader.lineup.variants() if variant.available]
    if not variants:
        return "None of the contenders can answer; their panes say why."
    precisions = dict.fromkeys(variant.precision.replace("nf4", "NF4") for variant in variants)
    device = device_name(variants[0].device)
    where = f"runs in {escape(' and '.join(precisions))} on {escape(device)}."
    if is_embedded(settings):
        return (
            f"The small model that comes with QVLA {where} It was trained from scratch on about "
            "11,000 photos from above: Base has a few words for a photo, the adapters a plain "
            "sentence. Expect mistakes."
        )
    return f"<b>{escape(settings.model_name)}</b> {where}"


def _stands_in(settings: Settings) -> str:
    todo = steps(settings)
    if todo is None:
        return ""
    items = "".join(f"<li>{escape(step)}</li>" for step in todo)
    return (
        f'<div class="stands-in"><p><b>{escape(str(settings.stands_in_for))}</b> is gated and was '
        "not given to this app, so the small model that comes with QVLA answers meanwhile. Two "
        f"steps bring it:</p><ol>{items}</ol></div>"
    )


def _how_to_run_the_real_one(settings: Settings) -> str:
    if not is_embedded(settings) or settings.stands_in_for is not None:
        return ""
    return (
        f"<details><summary>Run {REAL_MODEL} instead</summary>"
        f'<pre tabindex="0"><code>{escape(REAL_MODEL_COMMANDS)}</code></pre></details>'
    )
