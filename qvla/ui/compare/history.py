"""What was compared during this visit: as a table on the page, and as CSV and JSON to take away."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from qvla.ui import units
from qvla.ui.compare.links import link_to
from qvla.ui.panes import Pane
from qvla.ui.sentences import as_sentence
from qvla.ui.tables import csv_text

COLUMNS = (
    "time",
    "photo",
    "variant",
    "title",
    "model",
    "adapter",
    "precision",
    "state",
    "caption",
    "tokens",
    "seconds_to_first_token",
    "seconds",
    "tokens_per_second",
    "weight_bytes",
    "cider_d",
    "rouge_l",
    "log_probability",
    "certainty",
    "unfamiliar",
    "max_new_tokens",
    "num_beams",
    "temperature",
    "top_p",
    "seed",
    "references",
    "note",
)


MOST_NOTE = 300  # letters


@dataclass(frozen=True)
class Comparison:
    """One finished comparison. `thumbnail` is a data URI, and `key` tells entries apart.

    `file` is where the upload lies, `digest` the SHA-256 of it, and `example` the name of the
    example that it is, if it is one. None of these is in the downloads.
    """

    time: str
    photo: str
    thumbnail: Annotated[str, StringConstraints(pattern=r"^data:image/webp;base64,[\w+/=]*$")]
    decoding: dict[str, Any]
    references: tuple[str, ...]
    panes: tuple[Pane, ...]
    note: Annotated[str, StringConstraints(max_length=MOST_NOTE)] = ""
    key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,16}$")] = ""
    file: Annotated[str, StringConstraints(max_length=4096)] = ""
    digest: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    example: Annotated[str, StringConstraints(max_length=255)] = ""


def keyed(history: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The same, each with a key: those that a browser kept from before have none."""
    return tuple(one if one.key else replace(one, key=secrets.token_hex(8)) for one in history)


def now() -> str:
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def decoding_words(options: Mapping[str, Any]) -> str:
    """The decoding in few words, from the arguments of `Decoding`."""
    length = f"up to {options.get('max_new_tokens', 40)} tokens"
    if options.get("temperature"):
        words = [f"temperature {options['temperature']:g}", f"top-p {options.get('top_p', 1):g}"]
        if options.get("seed") is not None:
            words.append(f"seed {options['seed']}")
    else:
        beams = options.get("num_beams", 1)
        words = ["Greedy" if beams == 1 else f"{beams} beams"]
    return ", ".join([*words, length])


def pane_record(pane: Pane) -> dict[str, Any]:
    """A pane's figures under the names that the command line uses too."""
    fields = asdict(pane)
    record = {name: fields[name] for name in ("model", "adapter", "precision")}
    record["state"] = pane.state.value
    if pane.message:
        record["message"] = pane.message
    record["caption"] = pane.text
    for name in ("tokens", "seconds_to_first_token", "seconds", "tokens_per_second"):
        record[name] = getattr(pane, name)
    for name in ("weight_bytes", "cider_d", "rouge_l", "log_probability"):
        record[name] = fields[name]
    record["certainty"] = pane.certainty or None
    record["unfamiliar"] = pane.unfamiliar
    return record


def as_records(history: Sequence[Comparison]) -> list[dict[str, Any]]:
    """One object a comparison, oldest first."""
    return [
        {
            "time": entry.time,
            "photo": entry.photo,
            "decoding": entry.decoding,
            "references": list(entry.references),
            **({"note": entry.note} if entry.note else {}),
            "variants": {pane.name: pane_record(pane) for pane in entry.panes},
        }
        for entry in history
    ]


def as_json(history: Sequence[Comparison]) -> str:
    return json.dumps(as_records(history), indent=2, ensure_ascii=False) + "\n"


def as_csv(history: Sequence[Comparison]) -> str:
    """One row a caption; references are separated by line breaks within their field."""
    rows = (
        {
            "time": entry.time,
            "photo": entry.photo,
            "variant": pane.name,
            "title": pane.title,
            "references": "\n".join(entry.references),
            "note": entry.note,
            **pane_record(pane),
            **entry.decoding,
        }
        for entry in history
        for pane in entry.panes
    )
    return csv_text(COLUMNS, ([row.get(name) for name in COLUMNS] for row in rows))


def write_downloads(history: Sequence[Comparison], folder: Path) -> tuple[str, str]:
    """Writes both files into a folder of their own below `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="history-", dir=folder))
    paths = []
    for name, text in (
        ("qvla-history.csv", as_csv(history)),
        ("qvla-history.json", as_json(history)),
    ):
        temporary = own / f".{name}"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, own / name)
        paths.append(str(own / name))
    return paths[0], paths[1]


def with_references(
    history: tuple[Comparison, ...], references: tuple[str, ...], panes: tuple[Pane, ...]
) -> tuple[Comparison, ...]:
    """The history once the captions that are on the screen were scored against these references.

    They are those of the last comparison, unless that is of a photo no longer shown.
    """
    if not history or _said(history[-1].panes) != _said(panes):
        return history
    return (*history[:-1], replace(history[-1], references=references, panes=panes))


def _said(panes: Sequence[Pane]) -> list[tuple[str, str]]:
    return [(pane.name, pane.text) for pane in panes]


def link_of(entry: Comparison) -> str:
    """The query of a link to the same comparison; "" where it is not known of which photo."""
    names = [pane.name for pane in entry.panes]
    if entry.example:
        return link_to(entry.decoding, names, example=entry.example)
    if entry.digest:
        return link_to(entry.decoding, names, photo=entry.digest, name=entry.photo)
    return ""


def render_history(history: Sequence[Comparison]) -> str:
    """A table, newest first; on narrow screens the style sheet turns rows into cards."""
    if not history:
        return (
            '<p class="empty">Nothing compared yet. Each comparison is kept here and in this '
            "browser alone, until you clear it.</p>"
        )
    newest_first = history[::-1]
    titles: dict[str, str] = {}
    for entry in newest_first:  # the line-up may have changed since
        titles |= {pane.name: titles.get(pane.name, pane.title) for pane in entry.panes}
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles.values())
    rows = "".join(_row(entry, titles) for entry in newest_first)
    return (
        '<table class="history"><caption class="sr-only">Comparisons of this visit</caption>'
        f'<thead><tr><th scope="col">Photo</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _row(entry: Comparison, titles: Mapping[str, str]) -> str:
    panes = {pane.name: pane for pane in entry.panes}
    cells = "".join(_cell(panes.get(name), title) for name, title in titles.items())
    when = escape(entry.time)
    clock = escape(entry.time.partition("T")[2][:5])
    note = f'<em class="entry-note">{escape(entry.note)}</em>' if entry.note else ""
    return (
        f'<tr><th scope="row"><div><img src="{escape(entry.thumbnail)}" alt="" '
        'width="48" height="48">'
        f'<span><b>{escape(entry.photo)}</b><time datetime="{when}">{clock} UTC</time>'
        f"<small>{escape(decoding_words(entry.decoding))}</small>{note}{_actions(entry)}</span>"
        f"</div></th>{cells}</tr>"
    )


def _actions(entry: Comparison) -> str:
    """What can be done with an entry; all but the first wait behind "More"."""
    if not entry.key:
        return ""
    name = escape(entry.photo)
    link = escape(link_of(entry))
    copy = (
        f'<button type="button" class="row-button" data-copy-link="{link}">Copy link</button>'
        if link
        else ""
    )
    return (
        f'<span class="entry-actions" data-key="{entry.key}">'
        f'<button type="button" class="row-button" data-do="reopen" '
        f'aria-label="Open {name} again">Open</button>'
        f'<details><summary aria-label="More for {name}">More</summary>'
        '<span class="entry-more"><label>Note '
        f'<input class="entry-note-field" maxlength="{MOST_NOTE}" '
        f'value="{escape(entry.note)}"></label>{copy}'
        '<button type="button" class="row-button" data-do="card">Picture card</button>'
        '<button type="button" class="row-button" data-do="remove">Delete</button>'
        "</span></details></span>"
    )


def _cell(pane: Pane | None, title: str) -> str:
    if pane is None:
        return f'<td data-title="{escape(title)}"><span>{units.UNKNOWN}</span></td>'
    figures = [units.seconds(pane.seconds), f"{units.rate(pane.tokens_per_second)} tok/s"]
    if pane.cider_d is not None:
        figures.append(f"CIDEr-D {units.score(pane.cider_d)}")
    small = f"<small>{' · '.join(figures)}</small>" if pane.text else ""
    said = escape(as_sentence(pane.text) or pane.message)
    return f'<td data-title="{escape(title)}"><span>{said}</span>{small}</td>'
