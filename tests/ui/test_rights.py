from __future__ import annotations

from types import SimpleNamespace

import pytest

from qvla.settings import load_settings
from qvla.ui.rights import LONGEST_WAIT, SESSION_SECONDS, Rights, RightsError


def request(address: str = "127.0.0.1", host: str = "localhost:7860", **headers: str):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(headers={"host": host, **named}, client=SimpleNamespace(host=address))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def off_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rights(clock: Clock) -> Rights:
    return Rights(load_settings(admin_password="open sesame"), now=clock)


def test_a_password_opens_a_session_and_nothing_else_does(rights: Rights, clock: Clock) -> None:
    token = rights.sign_in("open sesame", request("10.0.0.9", "app.example"))
    assert rights.check(token, request("10.0.0.9", "app.example")).name == "admin"
    for forged in (None, "", "x", token[:-1], token + "A", 7, ["a"], token.swapcase()):
        with pytest.raises(RightsError, match="Sign in first"):
            rights.check(forged, request())
    # With a password set, being on the same machine is not enough.
    with pytest.raises(RightsError, match="Sign in first"):
        rights.check(None, request())
    clock.now += SESSION_SECONDS
    with pytest.raises(RightsError, match="has ended"):
        rights.check(token, request())


def test_signing_out_ends_the_session_and_a_restart_ends_all(rights: Rights, clock: Clock) -> None:
    token = rights.sign_in("open sesame", request())
    with pytest.raises(RightsError):
        Rights(load_settings(admin_password="open sesame"), now=clock).check(token, request())
    rights.sign_out(token)
    with pytest.raises(RightsError):
        rights.check(token, request())


def guess(rights: Rights) -> str:
    with pytest.raises(RightsError) as refusal:
        rights.sign_in("guess", request("10.0.0.1"))
    return str(refusal.value)


def test_wrong_passwords_are_slowed_down_by_address(rights: Rights, clock: Clock) -> None:
    waits = []
    for _ in range(8):
        started = clock.now
        while "too soon" in guess(rights):
            clock.now += 0.5
        waits.append(clock.now - started)
    assert waits == sorted(waits) and waits[:3] == [0, 1, 2] and waits[-1] == LONGEST_WAIT
    # The right password has to wait as well, or guessing would not be slowed down.
    with pytest.raises(RightsError, match="too soon"):
        rights.sign_in("open sesame", request("10.0.0.1"))
    assert rights.sign_in("open sesame", request("10.0.0.2"))
    clock.now += LONGEST_WAIT + 1
    assert rights.sign_in("open sesame", request("10.0.0.1"))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:7860", "[::1]:7860"])
def test_without_a_password_the_same_machine_may(address: str, host: str) -> None:
    assert Rights(load_settings()).check(None, request(address, host)).name == "local"


@pytest.mark.parametrize(
    "one",
    [
        request("10.0.0.9"),
        request("::ffff:10.0.0.9"),
        request(""),
        request(host="app.example"),  # a name that somebody pointed at 127.0.0.1
        request(host=""),
        request(host="localhost.evil.example"),
        request(x_forwarded_for="127.0.0.1"),
        request(X_Real_IP="127.0.0.1"),
        request(Forwarded="for=127.0.0.1"),
        request(via="1.1 proxy"),
    ],
)
def test_without_a_password_nobody_else_may(one: SimpleNamespace) -> None:
    with pytest.raises(RightsError, match="QVLA_ADMIN_PASSWORD"):
        Rights(load_settings()).check(None, one)


def test_another_web_page_cannot_use_an_admins_browser(rights: Rights) -> None:
    local = Rights(load_settings())
    assert local.check(None, request(origin="http://localhost:7860"))
    for origin in ("http://evil.example", "null", "http://localhost:9999"):
        with pytest.raises(RightsError, match="another web page"):
            local.check(None, request(origin=origin))
        with pytest.raises(RightsError, match="another web page"):
            rights.sign_in("open sesame", request(origin=origin))


def test_on_a_space_only_listed_accounts_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "owner/space")
    settings = load_settings(admins=["ada"], admin_password="open sesame")
    rights = Rights(settings)
    assert rights.check(None, request(), SimpleNamespace(username="ada")).name == "ada"
    for profile in (None, SimpleNamespace(username="eve"), SimpleNamespace(username="Ada")):
        with pytest.raises(RightsError):
            rights.check(None, request(), profile)
    with pytest.raises(RightsError, match="does not sign in with a password"):
        rights.sign_in("open sesame", request())
    with pytest.raises(RightsError, match="QVLA_ADMINS"):
        Rights(load_settings()).check(None, request(), SimpleNamespace(username="ada"))
