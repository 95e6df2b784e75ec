"""What becomes of a photo that a visitor hands in, or picks from the examples or the gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from qvla.data.imagery import Photo
from qvla.data.risc import Example
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.compare import photo
from qvla.ui.panes import Pane
from qvla.ui.photo_folder import PhotoFolder

Update = dict[Any, Any]


@dataclass(frozen=True)
class PhotoTaking:
    """Handlers that fill these components. A file that is refused leaves all else as it was.

    `chosen` holds the photo that was taken last, and `filled` the references that came with it;
    `dropped` gives the updates for what goes with the photo before, given who is to answer and the
    example that comes, if it is one; what it says of the references stands.
    """

    settings: Settings
    photo: photo.PhotoInput
    chosen: gr.State
    references: gr.Textbox
    filled: gr.State
    dropped: Callable[[Sequence[str], gr.Request, Example | None], Update]

    def upload(
        self,
        file: FileData | None,
        chosen: FileData | None,
        references: str,
        filled: str,
        seats: Sequence[str],
        request: gr.Request,
    ) -> Update:
        """References that came with the photo before go with it; typed ones stay."""
        try:
            opened = photo.open_photo(file, self.settings)
        except QvlaError as error:
            return self._refuse(str(error), chosen)
        kept = "" if references == filled else references
        return self._take(file, opened, kept, "", self.dropped(seats, request, None))

    def bring(self, told: Callable[[tuple[Pane, ...]], Update]) -> Callable[..., Update]:
        """What opens a photo that was uploaded before, with captions that are there already; `told`
        gives the updates that show panes.
        """

        def brought(file: FileData, panes: tuple[Pane, ...], request: gr.Request) -> Update:
            try:
                opened = photo.open_photo(file, self.settings)
            except QvlaError as error:
                raise gr.Error(str(error), print_exception=False) from error
            dropped = self.dropped((), request, None)
            return {**self._take(file, opened, "", "", dropped), **told(panes)}

        return brought

    def too_large(self, chosen: FileData | None) -> Update:
        return self._refuse(photo.too_large(self.settings), chosen)

    def pick(self, folder: PhotoFolder | None) -> Callable[..., Update]:
        """The handler of a pick from this folder, by the photo's name."""

        def picked(
            name: str | None, chosen: FileData | None, seats: Sequence[str], request: gr.Request
        ) -> Update:
            try:
                if folder is None:
                    raise QvlaError("There are no photos to pick from here.")
                example = folder.find(name)
                file = photo.in_cache(example.image)
                opened = photo.open_photo(file, self.settings)
            except QvlaError as error:
                return self._refuse(str(error), chosen)
            except OSError:
                return self._refuse(f"The photo {name} is missing from its folder.", chosen)
            references = "\n".join(example.references)
            dropped = self.dropped(seats, request, example)
            return self._take(file, opened, references, references, dropped)

        return picked

    def _take(
        self,
        file: FileData,
        opened: Photo,
        references: str,
        filled: str,
        dropped: Update,
    ) -> Update:
        return {
            self.photo: photo.shown(file, opened),
            self.chosen: file,
            self.references: references,
            self.filled: filled,
            **dropped,
        }

    def _refuse(self, sentence: str, chosen: FileData | None) -> Update:
        return {self.photo: photo.refused(sentence, chosen)}
