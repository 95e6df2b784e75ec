"""The folder of what visitors upload, one for each running app, gone with it.

Gradio keeps uploads, pictures and downloads in a folder that outlives the app, and sweeps it only
while an app runs. Here each app has a folder of its own, which it removes when it ends; what an app
left that was killed, the next one removes when it starts.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

NAME = re.compile(r"qvla-visitors-(\d+)-(\d+)-\w+")


def own_folder() -> Path:
    """Makes this process's folder, tells Gradio of it, and removes those of processes that died."""
    process = psutil.Process()
    sweep(Path(tempfile.gettempdir()))
    prefix = f"qvla-visitors-{process.pid}-{int(process.create_time())}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sweep(temporary: Path) -> None:
    """Removes the folders of apps that run no more."""
    for folder in temporary.glob("qvla-visitors-*"):
        found = NAME.fullmatch(folder.name)
        if found and not folder.is_symlink() and not _runs(int(found[1]), int(found[2])):
            shutil.rmtree(folder, ignore_errors=True)
            log.info("Removed what an earlier app had left of its visitors.")


def _runs(pid: int, started: int) -> bool:
    """Whether it is still that process: a number is given again, with another start."""
    try:
        return abs(psutil.Process(pid).create_time() - started) <= 1
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # somebody else's, whose start cannot be read
        return True
