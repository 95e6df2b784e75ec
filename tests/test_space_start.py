"""The app started as a Space starts it, and accounts signed in through a provider of the tests'.

An empty home, a folder of the app that cannot be written, the variables of a Space, and before it a
proxy that ends TLS and adds the forwarded headers. The model that is named is gated.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import qvla
from tests.support.hub import small_hub
from tests.support.servers import free_port
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.slow
pytest.importorskip("authlib", reason="authlib is not installed")
pytest.importorskip("itsdangerous", reason="itsdangerous is not installed")

from tests.support.openid import CLIENT_ID, CLIENT_SECRET, SCOPES, openid_provider  # noqa: E402

ROOT = Path(qvla.__file__).resolve().parents[1]
HOST = "ada-qvla.hf.space"
SPACE = f"https://{HOST}"
# Root may write anywhere: without this capability (CAP_DAC_OVERRIDE) the modes hold for it too.
AS_ANYBODY = """
import ctypes, os, sys
if sys.platform == "linux" and os.geteuid() == 0:
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Edge(httpx.BaseTransport):
    """What stands before a Space: the browser's side is https at the Space's name."""

    def __init__(self, port: int) -> None:
        self._port, self._inner = port, httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        passed = httpx.Request(
            request.method,
            request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        passed.headers["x-forwarded-for"] = "198.51.100.7"
        passed.headers["x-forwarded-proto"] = "https"
        passed.headers["x-forwarded-host"] = HOST
        return self._inner.handle_request(passed)


class Browser(httpx.Client):
    """With cookies; `account` is who is signed in at the provider."""

    def __init__(self, port: int, account: str | None = None) -> None:
        own = {"account": account} if account else {}
        super().__init__(
            mounts={SPACE: Edge(port)},
            cookies=own,
            follow_redirects=True,
            timeout=PATIENCE,
            trust_env=False,  # no proxy of this machine's own between
        )

    def call(self, name: str, data: list[object]) -> str:
        """The raw answer of an endpoint, asked as the Space's own page asks."""
        url = f"{SPACE}/gradio_api/call/{name}"
        asked = self.post(url, json={"data": data}, headers={"origin": SPACE})
        assert asked.status_code == 200, asked.text
        return self.get(f"{url}/{asked.json()['event_id']}").text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def space(
    tiny_checkpoint: Path, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of the started app."""
    folder = tmp_path_factory.mktemp("space") / "app"
    for name in ("qvla", "assets", "checkpoints"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "app.py", folder)
    within = [folder, *folder.rglob("*")]
    for path in within:
        path.chmod(0o555 if path.is_dir() else 0o444)
    port = free_port()
    ours = ("QVLA_", "GRADIO_", "XDG_", "SPACE_", "HF_", "OAUTH_", "OPENID_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    with small_hub(tiny_checkpoint) as hub, openid_provider(f"{SPACE}/login/callback") as provider:
        environment |= {
            "HOME": str(home),
            "SYSTEM": "spaces",
            "SPACE_ID": "ada/qvla",
            "SPACE_HOST": HOST,
            "SPACE_AUTHOR_NAME": "ada",
            "PORT": str(port),
            "GRADIO_SERVER_NAME": "0.0.0.0",
            "GRADIO_SERVER_PORT": str(port),
            "OAUTH_CLIENT_ID": CLIENT_ID,
            "OAUTH_CLIENT_SECRET": CLIENT_SECRET,
            "OAUTH_SCOPES": SCOPES,
            "OPENID_PROVIDER_URL": provider,
            "HF_ENDPOINT": hub,
            "QVLA_MODEL": "owner/gated",
            "QVLA_ADMINS": "ada",
        }
        command = [sys.executable, "-c", AS_ANYBODY, sys.executable, str(folder / "app.py")]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        server = subprocess.Popen(command, cwd=folder, env=environment, **streams)
        try:
            said: list[str] = []
            while not said or not said[-1].startswith("QVLA is open at "):
                said.append(server.stdout.readline())
                assert said[-1], f"it ended: {''.join(said)}"
            threading.Thread(target=lambda: said.extend(server.stdout), daemon=True).start()
            yield port
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(PATIENCE)
            for path in within:
                path.chmod(0o755)
        assert set(within) == {folder, *folder.rglob("*")}, "the app's folder was written to"


def test_it_answers_at_the_spaces_own_address(space: int, home: Path) -> None:
    with Browser(space) as browser:
        page = browser.get(f"{SPACE}/")
        assert page.status_code == 200 and "QVLA" in page.text
        assert browser.get(f"{SPACE}/config").json()["root"] == SPACE
        told = until(lambda: browser.get(f"{SPACE}/health").json())
        assert told["worker"] == "running"
    made = {path.name for path in home.rglob("*")}
    assert "jobs" in made  # what it makes lies in the home, the app's folder being closed


def test_the_embedded_model_answers_for_the_gated_one_and_says_so(space: int) -> None:
    with Browser(space) as browser:
        until(lambda: browser.get(f"{SPACE}/health").json()["ready"])
        assert all(browser.get(f"{SPACE}/health").json()["models"].values())
        banner = browser.call("status", [None, None])
        assert "<b>owner/gated</b> is gated" in banner and "HF_TOKEN" in banner
        assert "The small model that comes with QVLA runs" in banner


@pytest.mark.parametrize(
    ("account", "told"),
    [
        ("ada", "Signed in as <b>ada</b>"),
        ("eve", "The account eve is not among this Space's admins."),
        (None, "Sign in with your Hugging Face account first."),
    ],
)
def test_rights_go_by_the_account_that_signed_in(
    space: int, account: str | None, told: str
) -> None:
    with Browser(space, account) as browser:
        assert "Sign in with your Hugging Face account first." in browser.call(
            "admin_open", [None, None]
        )
        landed = browser.get(f"{SPACE}/login/huggingface")
        if account is None:  # nobody at the provider, so nobody here
            assert landed.status_code == 400
        else:
            assert (landed.status_code, landed.url.path) == (200, "/")
            assert landed.history, "nobody was asked"
        assert told.replace("'", "&#x27;") in browser.call("admin_open", [None, None])
        browser.get(f"{SPACE}/logout")
        assert "Signed in as" not in browser.call("admin_open", [None, None])


def test_a_forged_session_and_a_replayed_answer_are_nobodys(space: int) -> None:
    with Browser(space, "ada") as browser:
        answers = [one for one in browser.get(f"{SPACE}/login/huggingface").history]
        [callback] = [one.url for one in answers if one.url.path == "/login/callback"]
    with Browser(space) as other:
        other.cookies.set("session", "eyJvYXV0aF9pbmZvIjogMX0=.x.y", domain=HOST)
        assert other.get(callback, follow_redirects=False).status_code in (302, 307)
        assert "Signed in as" not in other.call("admin_open", [None, None])
