"""One visit's turn at the contenders, from the press of a button to the last word in the panes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from PIL import Image

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.compare import comparison, photo
from qvla.ui.compare.comparison import Certain, Scoring
from qvla.ui.compare.offers import answering, panes_of
from qvla.ui.compare.visits import Run, Runs, Wanted
from qvla.ui.panes import Manner, Pane, PaneState, no_badge, render_panes

NOT_TAKEN = "As many comparisons wait as may: try again in a moment."
UNFORESEEN = "The comparison ended with an unforeseen fault; the app's log has the details."
Update = dict[Any, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of a turn, and of which photo."""

    run: Run
    image: Image.Image
    panes: tuple[Pane, ...]


class Turns:
    """The handlers of a tab's panes; `outputs` are the components that they update."""

    def __init__(
        self,
        settings: Settings,
        loader: LineupLoader,
        manner: Manner,
        *,
        photo: photo.PhotoInput,
        panes: gr.HTML,
        shown: gr.State,
        stop: gr.Button,
        scored: Scoring = comparison.score,
        certain: Certain | None = None,
        badge: Callable[[Pane], str] = no_badge,
    ) -> None:
        """`shown` holds the panes as last rendered; `scored` and `certain` are as in `compare`, and
        `badge` as in `render_panes`.
        """
        self.settings, self.loader, self.manner = settings, loader, manner
        self.photo, self.panes, self.shown, self.stop_button = photo, panes, shown, stop
        self.scored, self.certain, self.badge = scored, certain, badge
        self.runs = Runs()

    @property
    def outputs(self) -> list[Any]:
        return [self.photo, self.panes, self.shown, self.stop_button]

    def is_busy(self, request: gr.Request) -> bool:
        """Whether this visit still has words to come."""
        return self.runs.is_busy(visit_of(request))

    def told(self, panes: tuple[Pane, ...]) -> Update:
        """The updates that show these panes."""
        return {self.panes: render_panes(panes, self.manner, self.badge), self.shown: panes}

    def idle(self, seats: Sequence[str]) -> Update:
        return self.told(panes_of(self.loader, seats, self.manner))

    def dropped(self, seats: Sequence[str], request: gr.Request) -> Update:
        """Of the photo before: words to come are stopped, and the panes emptied."""
        self.runs.stop(visit_of(request), discard=True)
        return self.idle(seats)

    def wait(self, wanted: Wanted, request: gr.Request) -> Update:
        """At the press of the button, whoever else waits: from here on there is a turn to wait for,
        which `run` takes. Without effect where this visit has one already.
        """
        if not self.runs.ask(visit_of(request), wanted):
            return {self.shown: gr.skip()}
        panes = comparison.waiting(panes_of(self.loader, wanted.seats, self.manner))
        return {
            self.photo: photo.PhotoInput(problem=""),
            self.stop_button: gr.Button(interactive=True),
            **self.told(wanted.seen(panes)),
        }

    def run(
        self, chosen: FileData | None, request: gr.Request
    ) -> Generator[Update, None, Outcome | None]:
        """What this visit waits for, as it goes; None where it came to nothing, or is about a photo
        no longer shown.
        """
        visit = visit_of(request)
        run = self.runs.begin(visit)
        if run is None:
            yield {self.shown: gr.skip()}
            return None
        wanted = run.wanted
        panes: tuple[Pane, ...] = ()
        try:
            image = photo.open_photo(wanted.photo, self.settings).image
            for panes in comparison.compare(
                self.loader,
                image,
                wanted.options,
                wanted.references,
                run.stopped,
                answering(self.loader, wanted.seats),
                self.certain,
                question=wanted.question,
                scored=self.scored,
            ):
                if run.discarded:
                    break
                yield self.told(wanted.seen(panes))
        except QvlaError as error:  # of the photo, which may have been swept away meanwhile
            yield {self.photo: photo.refused(str(error), chosen), **self.idle(wanted.seats)}
        finally:
            self.runs.end(visit, run)
        yield {self.stop_button: gr.Button(interactive=self.runs.is_busy(visit))}
        if run.discarded or not any(pane.text for pane in panes):
            return None
        return Outcome(run, image, panes)

    def not_run(self, panes: tuple[Pane, ...], request: gr.Request) -> Update:
        """The queue is full, or what took the turn failed in a way that no pane tells."""
        waited = self.runs.stop(visit_of(request), discard=True)
        sentence = NOT_TAKEN if waited else UNFORESEEN
        return {
            self.stop_button: gr.Button(interactive=False),
            **self.told(comparison.ended(panes, PaneState.FAILED, sentence)),
        }

    def stop(self, panes: tuple[Pane, ...], request: gr.Request) -> Update:
        """Ends what runs, which then tells the panes; who still waits leaves the queue."""
        if not self.runs.stop(visit_of(request)):
            return {self.shown: gr.skip()}
        return {
            self.stop_button: gr.Button(interactive=False),
            **self.told(comparison.ended(panes, PaneState.STOPPED, comparison.LEFT)),
        }


def visit_of(request: gr.Request) -> str:
    return request.session_hash or ""
