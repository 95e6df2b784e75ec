"""The parts of one job's view as HTML: what it is, its notes, its log, its sample captions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvla.data import imagery
from qvla.data.risc import image_folders, located, name_fault
from qvla.errors import QvlaError
from qvla.jobs.publishing import shown_name
from qvla.tuning.events import Row, by_step
from qvla.ui.admin.job_list import (
    duration,
    moment,
    progress_bar,
    progress_words,
    state_chip,
    title_of,
)
from qvla.ui.admin.run_rows import reached
from qvla.ui.pictures import THUMBNAIL_PIXELS, data_uri
from qvla.words import counted

if TYPE_CHECKING:
    from qvla.jobs.store import Job


def render_head(job: Job, rows: Sequence[Row]) -> str:
    """Title, state, progress, the reason of its end, and the facts of the run."""
    so_far = reached(list(rows))
    start = next((row for row in reversed(rows) if row["event"] == "start"), {})
    steps = by_step(list(rows), "step")
    speed = steps[-1].get("images_per_second") if steps else None
    trained, base = start.get("trained_parameters"), start.get("base_precision")
    base = base and f"{base} base"
    facts: dict[str, str] = {
        "Queued": f"{moment(job.created)} by {escape(job.owner or 'somebody')}",
        "Began": moment(job.started),
        "Ended": moment(job.finished),
        "Attempt": str(job.attempt),
        "Trained": counted(trained, "parameter") if trained is not None else "–",
        "On": escape(", ".join(filter(None, (start.get("device"), base)))) or "–",
        "Speed": f"{speed:.3g} images/s" if speed is not None else "–",
        "Data": escape(Path(job.data).name) or "–",
    }
    if job.started and job.finished:
        spent = (job.finished - job.started).total_seconds()
        facts["Ended"] += f", after {duration(spent)}"
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    words = progress_words(job, so_far)
    failed = job.state.value in ("failed", "unreadable") and job.reason
    reason = f'<p class="problem">{escape(job.reason)}</p>' if failed else ""
    return (
        f"<h3>{escape(title_of(job))} <small>{escape(shown_name(job.id))}</small> "
        f"{state_chip(job)}</h3>"
        f'{progress_bar(job, so_far)}<p class="words">{"" if failed else escape(words)}</p>{reason}'
        f'<dl class="job-facts">{shown}</dl>'
    )


def render_notes(rows: Sequence[Row]) -> str:
    """What the run had to say besides its figures."""
    said = [row for row in rows if row["event"] == "note" or _is_bad_end(row)]
    items = "".join(
        f"<li><time>{escape(row['time'][11:19])}</time> {escape(str(row.get('text', '')))}</li>"
        for row in said
    )
    return f'<ul class="notes">{items}</ul>' if items else ""


def render_log(text: str) -> str:
    if not text.strip():
        return '<p class="empty">Nothing was said yet.</p>'
    # Laid out from its end, so that it stays there as lines come.
    return (
        f'<div class="log" tabindex="0" role="log" aria-label="Log"><pre>{escape(text)}</pre></div>'
    )


def render_samples(rows: Sequence[Row], data: str) -> str:
    """The fixed photos, each with its newest caption, then that before the first step."""
    evaluations = [*by_step(list(rows), "samples"), *by_step(list(rows), "evaluation")]
    by_photo: dict[str, list[tuple[int, str]]] = {}
    references: dict[str, Sequence[str]] = {}
    for row in reversed(evaluations):
        for sample in row.get("samples") or ():
            name = sample["image"]
            by_photo.setdefault(name, []).append((row["step"], sample["caption"]))
            references[name] = sample.get("references", ())
    if not by_photo:
        return '<p class="empty">Captions of fixed photos come when the run begins.</p>'
    return (
        '<ul class="samples">'
        + "".join(_sample(name, said, references[name], data) for name, said in by_photo.items())
        + "</ul>"
    )


def _sample(
    name: str, said: Sequence[tuple[int, str]], references: Sequence[str], data: str
) -> str:
    picture = _thumbnail(data, name)
    face = f'<img src="{picture}" alt="">' if picture else ""
    newest, *between, first = said if len(said) > 1 else [*said, None]
    captions = "".join(_said(one) for one in (newest, first) if one is not None)
    if between:
        others = "".join(map(_said, between))
        captions += f"<li><details><summary>Between</summary><ol>{others}</ol></details></li>"
    people = "".join(f"<li>{escape(str(text))}</li>" for text in references)
    return (
        f"<li>{face}<div><b>{escape(name)}</b><ol>{captions}</ol>"
        f"<details><summary>What people said</summary><ul>{people}</ul></details></div></li>"
    )


def _said(one: tuple[int, str]) -> str:
    step, text = one
    at = f"step {step:,}" if step else "before"
    return f"<li><small>{at}</small> <span>{escape(text) or '(nothing)'}</span></li>"


@lru_cache(maxsize=256)
def _thumbnail(data: str, name: str) -> str | None:
    """None for a photo that is not on this machine, as of data from the hub."""
    folder = Path(data)
    if name_fault(name) or not folder.is_dir():
        return None
    try:
        return data_uri(imagery.open_image(located(name, image_folders(folder))), THUMBNAIL_PIXELS)
    except (QvlaError, OSError):
        return None


def _is_bad_end(row: dict[str, Any]) -> bool:
    return row["event"] == "end" and row.get("state") != "done"
