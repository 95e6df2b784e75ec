"""A gate before something that another Python process does, so that a test can come in between.

Python imports `sitecustomize` wherever it finds it, and tells its audit hooks of every file that is
opened and every module that is imported. The gate is a named pipe: a process that comes to it waits
until a test opens the other end, which it cannot before somebody waits.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tests.support.waiting import until

HOOK = """
import os, sys

passed = 0

def hook(event, arguments):
    global passed
    named = event == {event!r} and str(arguments[0]).endswith({name!r})
    if named and {mode!r} in (None, arguments[1]):
        if os.path.exists({pipe!r}):
            if passed >= {passes}:
                open({pipe!r}).read()
            passed += 1

sys.addaudithook(hook)
"""


class Gate:
    """Where every process with `variables` comes by before the audit event `event` (`open` or
    `import`) whose first argument ends with `name`; of an `open`, `mode` is without its `b`.

    Once it is closed, a process passes `passes` more times and then waits.
    """

    def __init__(
        self, folder: Path, event: str, name: str, *, mode: str | None = None, passes: int = 0
    ) -> None:
        folder.mkdir()
        self._pipe = folder / "gate"
        self._end: int | None = None  # the other end, which keeps waiting who waits
        hook = HOOK.format(event=event, name=name, mode=mode, pipe=str(self._pipe), passes=passes)
        (folder / "sitecustomize.py").write_text(hook)
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        self.variables = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}

    def close(self) -> None:
        os.mkfifo(self._pipe)

    def until_somebody_waits(self) -> None:
        until(self._has_somebody)

    def open(self) -> None:
        """For those who come later. Who waits already is meant to be killed."""
        self._pipe.unlink()

    def let_through(self) -> None:
        """For all, those who wait and those who come later."""
        self.until_somebody_waits()
        self._pipe.unlink()
        os.close(self._end)

    def _has_somebody(self) -> bool:
        if self._end is None:
            try:
                self._end = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
        return self._end is not None
