"""Servers of the tests' own, each on a free port of this machine and with a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.waiting import until

PASSWORD = "secret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


PORTS: list[int] = []  # of this process


def usual_port() -> int:
    """A free port, one that this process had before if it can be: browsers cache by address."""
    for port in PORTS:
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    PORTS.append(free_port())
    return PORTS[-1]


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server of this process, whose requests go to the handler."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # How often it looks whether it is to end: by itself twice a second, which tests waited for.
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """The address of a Redis server with a password; skips the test where there is no program."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: `apt-get install redis-server`")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with _running([program, *options, "--requirepass", PASSWORD], port):
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}/0"


@contextmanager
def postgres_server() -> Iterator[Callable[[], str]]:
    """Makes a new database at each call, and returns its address as SQLAlchemy takes it.

    Skips the test where Postgres or its driver is not installed. Postgres refuses to run as root,
    and then runs as the user whom Debian's package made for it.
    """
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("Postgres is not installed: `apt-get install postgresql`")
    user = _postgres_user()
    if user is None:
        pytest.skip("Postgres does not run as root, and there is no user 'postgres' to run it as")
    # Not in pytest's own folder, which only the user of the tests may enter.
    folder = Path(tempfile.mkdtemp(prefix="qvla-postgres-"))
    try:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        for path in (folder, secret) if user else ():
            shutil.chown(path, **user)
        data, port = str(folder / "data"), free_port()
        made = subprocess.run(
            [
                *(programs / "initdb", "--pgdata", data, "--no-sync", "--username", "qvla"),
                *("--auth", "scram-sha-256", "--pwfile", secret),
                *("--encoding", "UTF8", "--locale", "C"),
            ],
            capture_output=True,
            text=True,
            cwd=folder,
            **user,
        )
        if made.returncode:
            pytest.skip(f"Postgres cannot make a database here: {made.stderr.strip()}")
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        settings |= {"max_connections": 500, "port": port}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        address = f"qvla:{PASSWORD}@127.0.0.1:{port}"
        numbers = count(1)

        def new_database() -> str:
            name = f"test{next(numbers)}"
            with psycopg.connect(f"postgresql://{address}/postgres", autocommit=True) as server:
                server.execute(f"CREATE DATABASE {name}")
            return f"postgresql+psycopg://{address}/{name}"

        with _running([str(programs / "postgres"), "-D", data, *words], port, cwd=folder, **user):

            def answers() -> bool:
                with suppress(psycopg.OperationalError):  # it is still starting
                    psycopg.connect(f"postgresql://{address}/postgres").close()
                    return True
                return False

            until(answers)
            yield new_database
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_programs() -> Path | None:
    """The folder of its programs: Debian keeps them out of the path, one folder a version."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda path: float(path.parents[1].name), default=None)
    return None if newest is None else newest.parent


def _postgres_user() -> dict[str, Any] | None:
    """Whom to run it as, as `subprocess` takes it; empty for who runs the tests."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return {}
    import pwd

    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return None
    return {"user": "postgres", "group": "postgres"}


@contextmanager
def _running(command: list[str], port: int, **options: Any) -> Iterator[None]:
    """The server from when its port answers until the end of the block."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, **quiet, **options)

    def answers() -> bool:
        assert server.poll() is None, f"{command[0]} ended with {server.returncode}"
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    try:
        until(answers)
        yield
    finally:
        server.send_signal(signal.SIGINT)  # to Postgres: at once, whoever is still connected
        server.wait()
