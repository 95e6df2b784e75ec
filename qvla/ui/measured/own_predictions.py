"""A visitor's own predictions file: chosen, scored beside ours, and forgotten.

From a program, with the app at the default address:

from gradio_client import Client, handle_file
scores = Client("http://127.0.0.1:7860").predict(
    handle_file("predictions.jsonl"), api_name="/score_predictions"
)
print(scores["protocols"]["standard"]["yours"]["metrics"]["CIDEr"])
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from qvla.errors import QvlaError
from qvla.ui.measured.cider_figures import PROTOCOLS, in_words, score_text
from qvla.ui.measured.evaluations import Evaluation, Score
from qvla.ui.measured.own_captions import NAMED, OWN, Beside, as_json, score_beside
from qvla.ui.measured.scored_photos import PhotoShelf
from qvla.ui.measured.tab import notes_html
from qvla.ui.tables import Cell, render_table
from qvla.ui.uploads import UploadButton
from qvla.words import counted

log = logging.getLogger(__name__)

LEAD = (
    "A file of any system's captions, one JSON object a line, such as "
    '<code>{"image": "name.jpg", "caption": "…"}</code>, or COCO results, a JSON object of '
    "captions by name, or CSV, is scored beside the variants on the photos that both have. It is "
    "deleted as soon as it is read."
)
SUFFIXES = (".jsonl", ".ndjson", ".json", ".txt", ".csv", ".tsv")


class OwnPredictions:
    """`find` gives the evaluations and `shown` holds the stem of the one whose photos are shown."""

    def __init__(
        self, shelf: PhotoShelf, find: Callable[[], Sequence[Evaluation]], shown: gr.State
    ) -> None:
        self.shelf, self.find = shelf, find
        with gr.Column(elem_classes="own-predictions", elem_id="own-predictions"):
            with gr.Row(elem_classes="section-head"):
                gr.HTML("<h3>Your own captions</h3>", elem_classes="section-title")
                self.file = UploadButton(
                    "Choose a file", size="sm", elem_id="own-file", min_width=120
                )
            gr.HTML(f'<p class="lead">{LEAD}</p>')
            self.result = gr.HTML(elem_id="own-result", label="Scores of your captions")
        self.scores = gr.JSON(visible=False, label="Scores")
        self.evaluation = gr.Textbox("", visible=False, label="Evaluation")
        self._wire()

    def _wire(self) -> None:
        limits = {"concurrency_limit": 1, "concurrency_id": "own-predictions"}
        self.file.upload(
            self._show,
            inputs=[self.file],
            outputs=[self.result],
            api_name="show_predictions",
            api_visibility="undocumented",
            show_progress="minimal",
            **limits,
        )
        gr.Button(visible=False).click(
            self._endpoint,
            inputs=[self.file, self.evaluation],
            outputs=[self.scores],
            api_name="score_predictions",
            **limits,
        )

    def _show(self, file: str | None) -> str:
        try:
            return render_beside(self._score(file))
        except QvlaError as error:
            return f'<p class="problem" role="alert">{escape(str(error))}</p>'

    def _endpoint(self, predictions: str | None, evaluation: str = "") -> dict[str, Any]:
        """Scores a predictions file beside the variants, on the photos that both have.

        One JSON object a line with image and caption. `evaluation` is the name of a record's file
        without .json; left out, it is the one that shares the most photos with the file.
        """
        try:
            return as_json(self._score(predictions, evaluation.strip()))
        except QvlaError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _score(self, file: str | None, stem: str = "") -> Beside:
        own = _read(file)
        try:
            return score_beside(own, self.shelf, self.find(), stem)
        except QvlaError:
            raise
        except Exception as error:
            log.exception("Own predictions could not be scored.")
            raise QvlaError(
                f"The captions could not be scored because of an unforeseen {type(error).__name__};"
                " the app's log has the details."
            ) from error


def render_beside(beside: Beside) -> str:
    """What was scored, the differences in words, and a table by protocol."""
    parts = [f'<p class="count" role="status">{escape(_counted(beside))}</p>']
    main = "qvla" if "qvla" in beside.evaluation.variants else beside.evaluation.variants[-1]
    difference = beside.differences["standard"].get(main)
    if difference is not None:
        score = Score(difference.value, difference.low, difference.high, difference.p_value)
        title = beside.evaluation.titles[main]
        answer, sentence = in_words(score, "your system", title, beside.images)
        state = "differs" if score.shown_to_differ else "open"
        parts.append(
            f'<p class="verdict" data-state="{state}">Is it really different from {title}? '
            f"<b>{answer}</b> {escape(sentence[:1].upper() + sentence[1:])}</p>"
        )
    for protocol, title in PROTOCOLS.items():
        systems = beside.scores[protocol]
        titles = {**beside.evaluation.titles, OWN: "Yours"}
        names = [titles[name] for name in systems]
        rows = [
            (
                metric,
                [
                    Cell(score_text(Score(s.metrics[metric].value, *_ends(s, metric))), "measured")
                    for s in systems.values()
                ],
            )
            for metric in next(iter(systems.values())).metrics
        ]
        parts.append(render_table(("Metric", *names), rows, caption=title))
    few = (
        ["CIDEr of so few photos says little: it learns from them which words are rare."]
        if beside.images < 50
        else []
    )
    notes = notes_html(f"Beside {beside.evaluation.title}, on the shared photos alone.", *few)
    return f'<div class="beside">{"".join(parts)}{notes}</div>'


def _ends(scored: Any, metric: str) -> tuple[float, float]:
    return scored.metrics[metric].low, scored.metrics[metric].high


def _counted(beside: Beside) -> str:
    sentences = [f"Scored on {counted(beside.images, 'photo')}."]
    if beside.missing:
        sentences.append(
            f"{len(beside.missing):,} of the evaluation's photos have no caption in your file: "
            f"{_some(beside.missing)}."
        )
    if beside.unknown:
        are = "is" if len(beside.unknown) == 1 else "are"
        sentences.append(
            f"{counted(len(beside.unknown), 'image')} in your file {are} not among its photos: "
            f"{_some(beside.unknown)}."
        )
    return " ".join(sentences)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _read(file: str | None) -> dict[str, str]:
    """Captions by image name, from an upload.

    It is left where it lies: equal files of several visitors are one file there, and whoever calls
    the endpoint chooses the path. Gradio sweeps uploads after a day.
    """
    from qvla.scoring import read_predictions

    if not file:
        raise QvlaError("Choose a predictions file first.")
    path = Path(file).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise QvlaError("Send the predictions file itself, not its place.")
    if path.suffix.lower() not in SUFFIXES:
        raise QvlaError(
            f"{path.name} is no predictions file: choose one in JSON Lines, JSON or CSV, named so."
        )
    try:
        return read_predictions(path)
    except QvlaError as error:  # where the server keeps it is nobody's business
        raise QvlaError(str(error).replace(str(path), path.name)) from error
