"""Who may use the admin tab. Every admin handler asks here; the layout decides nothing.

On a Hugging Face Space: the accounts that `QVLA_ADMINS` lists, signed in with OAuth. Elsewhere: who
knows `QVLA_ADMIN_PASSWORD`. Without a password: a browser on this very machine, never through a
proxy, because behind one every visitor would seem to be on this machine.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from qvla.errors import QvlaError
from qvla.settings import Settings

SESSION_SECONDS = 12 * 3600
LONGEST_WAIT = 30.0  # seconds after many wrong passwords; the first costs one second
FORGOTTEN_AFTER = 3600.0  # seconds in which wrong passwords of an address add up
# Any of these means that somebody stands between the browser and the app.
PROXY_HEADERS = (
    *("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
    *("x-forwarded-port", "x-forwarded-server", "x-real-ip", "x-client-ip", "true-client-ip"),
    *(
        "cf-connecting-ip",
        "fastly-client-ip",
        "x-original-forwarded-for",
        "x-envoy-external-address",
    ),
)


class RightsError(QvlaError):
    """The visitor may not do this; the message says what it takes."""


class Request(Protocol):
    """What is used of Gradio's request."""

    headers: Mapping[str, str]
    client: object  # with .host


class Profile(Protocol):
    """What is used of Gradio's OAuth profile."""

    username: str


@dataclass(frozen=True)
class Who:
    """An admin: a name for the record of a job, and how it is known."""

    name: str


class Rights:
    """The rights of one running app; sessions end with it."""

    def __init__(self, settings: Settings, *, now: Callable[[], float] = time.monotonic) -> None:
        self._on_space = bool(os.environ.get("SPACE_ID"))
        self._admins = frozenset(settings.admins)
        password = settings.admin_password
        self._password = password.get_secret_value().encode() if password else b""
        self._now = now
        self._lock = threading.Lock()
        self._sessions: dict[str, float] = {}  # hash of a token -> when it ends
        self._failures: dict[str, tuple[int, float]] = {}  # address -> how many, when the last was

    @property
    def asks_for_password(self) -> bool:
        return bool(self._password) and not self._on_space

    @property
    def asks_for_account(self) -> bool:
        return self._on_space

    def sign_in(self, password: str, request: Request) -> str:
        """A token for `check`; RightsError for a wrong password, or one given too soon after it."""
        _check_origin(request)
        if not self.asks_for_password:
            raise RightsError("This app does not sign in with a password.")
        address, now = _address(request), self._now()
        with self._lock:
            count, last = self._failures.get(address, (0, now))
            if now - last > FORGOTTEN_AFTER:
                count = 0
            wait = last + min(2.0 ** (count - 1), LONGEST_WAIT) - now if count else 0.0
            if wait > 0:
                raise RightsError(
                    f"That was too soon after a wrong password: wait {wait:.0f} s and try again."
                )
            if not hmac.compare_digest(str(password).encode(), self._password):
                self._failures[address] = (count + 1, now)
                raise RightsError("The password is wrong.")
            self._failures.pop(address, None)
            token = secrets.token_urlsafe(32)
            self._sessions = {key: end for key, end in self._sessions.items() if end > now}
            self._sessions[_digest(token)] = now + SESSION_SECONDS
        return token

    def sign_out(self, token: str) -> None:
        with self._lock:
            self._sessions.pop(_digest(str(token)), None)

    def check(self, token: str | None, request: Request, profile: Profile | None = None) -> Who:
        """Who asks; RightsError, with what it takes, when that is no admin."""
        _check_origin(request)
        if self._on_space:
            return self._check_account(profile)
        if self._password:
            return self._check_session(token)
        return _check_same_machine(request)

    def _check_account(self, profile: Profile | None) -> Who:
        if not self._admins:
            raise RightsError(
                "Nobody administers this Space: its owner sets QVLA_ADMINS to account names."
            )
        if profile is None:
            raise RightsError("Sign in with your Hugging Face account first.")
        if profile.username not in self._admins:
            raise RightsError(f"The account {profile.username} is not among this Space's admins.")
        return Who(profile.username)

    def _check_session(self, token: str | None) -> Who:
        with self._lock:
            end = self._sessions.get(_digest(token)) if isinstance(token, str) and token else None
        if end is None or end <= self._now():
            raise RightsError("Sign in first: there is no session, or it has ended.")
        return Who("admin")


def _check_same_machine(request: Request) -> Who:
    headers = {name.lower() for name in request.headers}
    host = _name_of(request.headers.get("host", ""))
    local = _is_loopback(_address(request)) and (host == "localhost" or _is_loopback(host))
    if not local or headers.intersection(PROXY_HEADERS):
        raise RightsError(
            "Without a password the admin tab is for a browser on the app's own machine only: set "
            "QVLA_ADMIN_PASSWORD and start the app again."
        )
    return Who("local")


def _check_origin(request: Request) -> None:
    """Refuses what another web page sends from an admin's browser."""
    origin = request.headers.get("origin")
    if not origin:
        return
    own = {request.headers.get(name, "").lower() for name in ("host", "x-forwarded-host")} - {""}
    if urlsplit(origin).netloc.lower() not in own:
        raise RightsError("This came from another web page: use the app's own.")


def _address(request: Request) -> str:
    return str(getattr(request.client, "host", "") or "")


def _name_of(host: str) -> str:
    return urlsplit(f"//{host}").hostname or ""


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
