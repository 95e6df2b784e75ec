"""Runs a command that ends with its parent: `python -m qvla.jobs.tie PARENT LOCK COMMAND…`.

The command keeps this process's number, and the lock whose descriptor is LOCK, which it signs. When
the worker dies, however it dies, Linux sends the command SIGTERM, and a training process then ends
itself with a checkpoint. Elsewhere it stays until a worker finds it (`recovery.py`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from qvla.jobs import lock, processes

PR_SET_PDEATHSIG = 1
SIGNALS_AT_DEATH = sys.platform == "linux"


def main() -> None:
    parent, descriptor, *command = sys.argv[1:]
    if SIGNALS_AT_DEATH:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != int(parent):  # it died before the signal was asked for
        sys.exit(128 + signal.SIGTERM)
    lock.sign(int(descriptor), processes.identity())
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
