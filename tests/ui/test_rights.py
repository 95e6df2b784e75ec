from __future__ import annotations

from types import SimpleNamespace

import pytest

from qvla.settings import load_settings
from qvla.ui.rights import (
    FLOOR,
    LONGEST_GAP,
    LONGEST_WAIT,
    OVERALL,
    SESSION_SECONDS,
    Rights,
    RightsError,
)


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


def try_at(rights: Rights, clock: Clock, password: str, address: str = "10.0.0.1") -> float:
    """Waits for the turn and tries; returns how long that took, having checked the answer."""
    wait = rights.turn(request(address))
    clock.now += wait
    if password == "open sesame":
        assert rights.sign_in(password, request(address))
    else:
        with pytest.raises(RightsError, match="The password is wrong"):
            rights.sign_in(password, request(address))
    return wait


def test_wrong_passwords_are_slowed_down_by_address(rights: Rights, clock: Clock) -> None:
    waits = [try_at(rights, clock, "guess") for _ in range(12)]
    assert waits[0] == 0 and waits == sorted(waits) and waits[-1] == pytest.approx(LONGEST_GAP)
    assert try_at(rights, clock, "open sesame", "10.0.0.2") <= OVERALL  # others do not wait for it
    # The right password waits for its turn as well, or guessing would not be slowed; then it is in.
    assert try_at(rights, clock, "open sesame") == pytest.approx(LONGEST_GAP, abs=0.1)


def test_a_right_password_is_never_refused_for_a_strangers_tries(
    rights: Rights, clock: Clock
) -> None:
    for _ in range(38):  # both at one address, as behind a proxy that adds no header
        try_at(rights, clock, "guess")
        assert try_at(rights, clock, "open sesame") <= LONGEST_GAP


def test_a_flood_at_once_waits_in_line_and_ends(rights: Rights, clock: Clock) -> None:
    waits = []
    with pytest.raises(RightsError, match="Too many tries"):
        for _ in range(10_000):
            waits.append(rights.turn(request("10.0.0.1")))
    assert waits == sorted(waits) and max(waits) <= LONGEST_WAIT
    assert len(waits) <= LONGEST_WAIT / FLOOR + 1
    # From as many addresses as one likes, no faster than the floor for everyone.
    clock.now += LONGEST_WAIT + 1
    many = [rights.turn(request(f"10.1.{n // 250}.{n % 250}")) for n in range(1000)]
    assert max(many) == pytest.approx(999 * OVERALL)


def test_without_a_password_the_link_opens_the_tab_once(clock: Clock) -> None:
    rights = Rights(load_settings(admin_link="a" * 32), now=clock)
    assert rights.asks_for_password
    with pytest.raises(RightsError, match="link that the app printed"):
        rights.check(None, request())
    with pytest.raises(RightsError, match="wrong"):
        rights.sign_in("b" * 32, request())
    token = rights.sign_in("a" * 32, request())
    assert rights.check(token, request()).name == "admin"
    for again in ("a" * 32, ""):
        with pytest.raises(RightsError):
            rights.sign_in(again, request())
    rights.sign_out(token)
    with pytest.raises(RightsError, match="new link"):
        rights.check(token, request())


def test_the_link_is_nothing_where_there_is_a_password_or_an_account(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Rights(load_settings(admin_link="a" * 32, admin_password="open sesame"), now=clock)
    with pytest.raises(RightsError, match="wrong"):
        both.sign_in("a" * 32, request())
    monkeypatch.setenv("SPACE_ID", "owner/space")
    with pytest.raises(RightsError):
        Rights(load_settings(admin_link="a" * 32)).sign_in("a" * 32, request())


@pytest.mark.parametrize(
    "one",
    [
        request("127.0.0.1"),
        request("::1", "[::1]:7860"),
        request("::ffff:127.0.0.1", "127.0.0.1:7860"),
        request("127.0.0.1", "localhost", X_Cluster_Client_IP="10.0.0.9"),
        request("10.0.0.9"),
        request(""),
        request(host="app.example"),
        request(x_forwarded_for="127.0.0.1"),
    ],
)
def test_being_on_the_same_machine_is_no_right(one: SimpleNamespace) -> None:
    """nginx as it comes passes a local Host on, from a local address, and adds no header."""
    for settings in (load_settings(), load_settings(admin_link="a" * 32)):
        with pytest.raises(RightsError, match="QVLA_ADMIN_PASSWORD"):
            Rights(settings).check(None, one)


def test_another_web_page_cannot_use_an_admins_browser(rights: Rights) -> None:
    token = rights.sign_in("open sesame", request(origin="http://localhost:7860"))
    assert rights.check(token, request(origin="http://localhost:7860"))
    for origin in ("http://evil.example", "null", "http://localhost:9999"):
        with pytest.raises(RightsError, match="another web page"):
            rights.check(token, request(origin=origin))
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
