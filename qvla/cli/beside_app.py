"""The command line with one habit more: it ends when the app that started it ends.

`python -m qvla.cli.beside_app VERB …` is how `qvla.ui.background` starts a measurement. Standard
input is a pipe that only the app holds open.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

from qvla.cli.main import main
from qvla.errors import PROGRAM_FAULT
from qvla.ui.background import GRACE_SECONDS


def end_with_the_app() -> None:
    """Ends this process and its group once standard input is closed."""
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when Python shuts down
        pass
    if os.name != "posix":
        os._exit(1)
    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def interrupt(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C: temporary folders are removed, and the exit code is that of an interruption."""
    raise KeyboardInterrupt


def run() -> int:
    signal.signal(signal.SIGTERM, interrupt)
    threading.Thread(target=end_with_the_app, name="end-with-the-app", daemon=True).start()
    try:
        return main()
    except Exception as error:  # none of the command's own: of the command line before it began
        print(f"The command cannot be started: {error}.", file=sys.stderr)
        return PROGRAM_FAULT


if __name__ == "__main__":
    sys.exit(run())
