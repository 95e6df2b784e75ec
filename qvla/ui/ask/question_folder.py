"""The questions that lie beside a folder's photos: read once, at first use."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from qvla.data.questions import read_questions
from qvla.data.risc import Example
from qvla.errors import QvlaError

log = logging.getLogger(__name__)


class QuestionFolder:
    """A folder with a file that is called after its questions, such as `questions.csv`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._questions: Mapping[str, Example] | None = None

    def questions(self) -> Mapping[str, Example]:
        """By name; none where the folder has none, or they cannot be read."""
        with self._lock:
            if self._questions is None:
                self._questions = {one.name: one for one in self._read()}
            return self._questions

    def _read(self) -> list[Example]:
        if not any("question" in file.stem.lower() for file in self.folder.glob("*.*")):
            return []
        try:
            return read_questions(self.folder)
        except QvlaError as error:
            log.warning("%s", error)
            return []
