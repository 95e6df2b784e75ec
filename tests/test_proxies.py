"""Proxies that the environment names: the app opens beside one, and one that is no use is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from qvla import proxies

ROOT = Path(__file__).resolve().parents[1]
CLOSED = "http://127.0.0.1:9"  # nothing listens there, and so no request gets through it
NAMES = [name for lower in (*proxies.VARIABLES, "no_proxy") for name in (lower, lower.upper())]
CANNOT_BE = {
    "socks5://somebody:secret@127.0.0.1:9": "pip install httpx[socks]",
    "socks://127.0.0.1:9": "name one as http://host:port",
    "http://[::1": "name one as http://host:port",
}


def serve(tmp_path: Path, **variables: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    paths = {"QVLA_JOBS": str(tmp_path / "jobs"), "QVLA_WORKER": "off", "PYTHONPATH": str(ROOT)}
    paths["QVLA_MODEL"] = str(tmp_path)  # which has no weights: the page opens all the same
    return subprocess.Popen(
        [sys.executable, str(ROOT / "app.py")],
        env={**clean, **paths, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_app_opens_whatever_proxy_there_is_for_elsewhere(tmp_path: Path) -> None:
    kept = {"NO_PROXY": "intranet.example"}
    app = serve(tmp_path, http_proxy=CLOSED, HTTPS_PROXY=CLOSED, ALL_PROXY=CLOSED, **kept)
    try:
        opened = app.stdout.readline()
        assert opened.startswith("QVLA is open at http://127.0.0.1:"), app.stderr.read()
        page = httpx.get(opened.split()[-1], trust_env=False)
        assert page.status_code == 200
    finally:
        app.kill()
        app.communicate()


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
@pytest.mark.parametrize("proxy", CANNOT_BE)
def test_a_proxy_that_cannot_be_used_is_one_sentence(
    name: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in NAMES:
        monkeypatch.delenv(other, raising=False)
    assert proxies.fault() is None
    monkeypatch.setenv(name, proxy)
    said = proxies.fault()
    assert said.startswith(f"{name} names the proxy {proxy.partition(':')[0]}://")
    assert CANNOT_BE[proxy] in said and "secret" not in said and "\n" not in said


def test_the_app_ends_with_that_sentence(tmp_path: Path) -> None:
    app = serve(tmp_path, all_proxy="socks://127.0.0.1:9")
    out, err = app.communicate(timeout=60)
    assert (app.returncode, out) == (2, "")
    assert err.startswith("all_proxy names the proxy socks://127.0.0.1:9,"), err
    assert err.count("\n") == 1


def test_what_was_excepted_from_a_proxy_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "intranet.example, localhost")
    proxies.spare("192.168.1.5")
    expected = "intranet.example,localhost,127.0.0.1,::1,192.168.1.5"
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == expected
    monkeypatch.setenv("no_proxy", "")  # so that it is taken away again
