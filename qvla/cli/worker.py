"""`qvla worker`: runs fine-tune jobs from the queue, one at a time."""

from __future__ import annotations

import argparse
import os
import signal
import threading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--once", action="store_true", help="run the jobs that wait, then end (default: go on)"
    )
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Returns when it was asked to stop, or with --once when no job waits any more.

    Which jobs is said by QVLA_JOBS, QVLA_DATABASE_URL and QVLA_REDIS_URL. On a machine with
    several GPUs, start one for each, with CUDA_VISIBLE_DEVICES.
    """
    from qvla.cli import logs
    from qvla.jobs.worker import Worker, work
    from qvla.settings import load_settings

    if options.with_parent:
        threading.Thread(target=stop_with_parent, name="stop-with-parent", daemon=True).start()
    settings = load_settings()
    logs.set_up(settings)
    work(Worker(settings), once=options.once)
    return 0


def stop_with_parent() -> None:
    """Stops this process, as SIGTERM does, once its standard input is closed."""
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when Python shuts down
        pass
    os.kill(os.getpid(), signal.SIGTERM)
