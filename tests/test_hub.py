"""What the hub can answer, asked of a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from qvla.errors import QvlaError
from qvla.hub import local_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves one model as the hub does; `folder` is set by the fixture."""

    folder: Path

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/owner/good/revision/"):
            self._json({"id": "owner/good", "sha": COMMIT, "siblings": []})
        elif path.startswith("/api/models/owner/good/tree/"):
            self._json([self._entry(file) for file in self.folder.iterdir()])
        elif path.startswith(f"/owner/good/resolve/{COMMIT}/"):
            self._file(self.folder / Path(path).name)
        elif "/owner/gated" in path and "/api/" in path and "/tree/" in path:
            self._json([{"type": "file", "path": "config.json", "size": 2, "oid": "0" * 40}])
        elif "/owner/gated" in path and "/api/" in path:
            self._json({"id": "owner/gated", "sha": COMMIT, "siblings": []})
        elif "/owner/gated" in path:
            known = self.headers.get("Authorization") is not None
            self._refuse(403 if known else 401, "GatedRepo")
        elif "/owner/broken" in path:
            self._refuse(500)
        elif "/owner/barred" in path:
            self._refuse(403)
        else:
            self._refuse(401, "RepoNotFound")

    do_HEAD = do_GET

    def _entry(self, file: Path) -> dict[str, object]:
        oid = hashlib.sha1(file.read_bytes()).hexdigest()
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": oid}

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode())

    def _file(self, file: Path) -> None:
        content = file.read_bytes()
        tag = hashlib.sha1(content).hexdigest()
        self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def _refuse(self, status: int, code: str | None = None) -> None:
        self._send(status, b"{}", {} if code is None else {"X-Error-Code": code})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    for file in tiny_checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"a pickle, which must not be fetched")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(endpoint: str, home: Path, offline: bool = False) -> dict[str, str]:
    """What `local_folder` says to each name, in a process that knows this hub alone."""
    script = """
        import json, os
        from qvla.errors import QvlaError
        from qvla.hub import local_folder

        answers = {}
        def ask(key, name):
            try:
                answers[key] = str(local_folder(name, ["*.json", "*.safetensors"], QvlaError))
            except QvlaError as error:
                answers[key] = f"refused: {error}"

        for name in ("good", "gated", "missing", "broken", "barred"):
            ask(name, f"owner/{name}")
        os.environ["HF_TOKEN"] = "not-a-real-token"
        ask("gated with a token", "owner/gated")
        print(json.dumps(answers))
    """
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    kept.pop("HF_TOKEN", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={
            **kept,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_HUB_DISABLE_XET": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for answer in answers.values():
        assert "\n" not in answer and len(answer) < 450
    return answers


def test_a_model_is_fetched_and_refusals_are_told_apart(
    hub: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    answers = ask(hub, tmp_path / "home")
    fetched = {file.name: file.read_bytes() for file in Path(answers["good"]).iterdir()}
    assert fetched == {file.name: file.read_bytes() for file in tiny_checkpoint.iterdir()}
    assert "is gated and this machine is not logged in" in answers["gated"]
    assert f"{hub}/owner/gated" in answers["gated"]  # where the licence is
    assert "account of this machine's token may not read it" in answers["gated with a token"]
    assert "neither a path here nor a model that this account can see" in answers["missing"]
    for name in ("broken", "barred"):
        assert f"{hub} did not serve it" in answers[name]

    # From now on the hub is out of reach: what was fetched stays usable.
    later = ask("http://127.0.0.1:9", tmp_path / "home")
    assert later["good"] == answers["good"]
    assert "check the connection" in later["missing"]
    offline = ask(hub, tmp_path / "home", offline=True)
    assert offline["good"] == answers["good"]
    assert "switched off by HF_HUB_OFFLINE" in offline["missing"]


def test_offline_and_not_cached() -> None:
    with pytest.raises(QvlaError, match="switched off by HF_HUB_OFFLINE"):
        local_folder("owner/never-fetched", ["config.json"], QvlaError)


@pytest.mark.parametrize(
    "name", ["plain", "a/b/c", "owner/ spaced", "../up", "/nowhere/x", "owner/.."]
)
def test_what_is_neither_a_folder_nor_a_hub_id(name: str) -> None:
    with pytest.raises(QvlaError, match="There is no folder"):
        local_folder(name, ["config.json"], QvlaError)
