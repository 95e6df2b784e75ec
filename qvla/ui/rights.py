"""Who may use the admin tab. Every admin handler asks here; the layout decides nothing.

On a Hugging Face Space: the accounts that `QVLA_ADMINS` lists, signed in with OAuth. Elsewhere: who
knows `QVLA_ADMIN_PASSWORD`. Without a password: who opens the link that `serve` prints in its
terminal, which is good once. Being on the same machine is no right: over HTTP it cannot be told, as
a proxy there makes every visitor look so.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from qvla.errors import QvlaError
from qvla.settings import Settings

SESSION_SECONDS = 12 * 3600
# Tries are taken in turns, each address's apart, and after wrong ones at longer distances. A try
# waits for its turn and is never refused for those before it, unless too many wait already.
FLOOR = 0.1  # seconds between tries of one address
OVERALL = 0.02  # seconds between any two tries
LONGEST_GAP = 2.0  # seconds between tries of an address with many wrong ones
LONGEST_WAIT = 30.0  # seconds
FORGOTTEN_AFTER = 3600.0  # seconds in which wrong passwords of an address add up


NO_PASSWORD = (
    "Sign in first: without a password the admin tab opens by the link that the app printed in its "
    "terminal, once. Start the app again for a new link, or set QVLA_ADMIN_PASSWORD."
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
        self._password = _secret(settings.admin_password)
        self._link = b"" if self._password else _secret(settings.admin_link)
        self._now = now
        self._lock = threading.Lock()
        self._sessions: dict[str, float] = {}  # hash of a token -> when it ends
        self._failures: dict[str, tuple[int, float]] = {}  # address -> how many, when the last was
        self._turns: dict[str, float] = {}  # address -> when its next try may come
        self._next = 0.0  # when anybody's next try may come

    @property
    def asks_for_password(self) -> bool:
        """Whether something can be typed that opens the tab: the password, or the link's secret."""
        return bool(self._password or self._link) and not self._on_space

    @property
    def asks_for_account(self) -> bool:
        return self._on_space

    def turn(self, request: Request) -> float:
        """Takes a place among the tries, and tells how many seconds to wait before `sign_in`.

        Raises RightsError only when so many tries wait already that this one would wait for longer
        than `LONGEST_WAIT`.
        """
        address, now = _address(request), self._now()
        with self._lock:
            count, last = self._failures.get(address, (0, now))
            if now - last > FORGOTTEN_AFTER:
                self._failures.pop(address, None)
                count = 0
            gap = max(FLOOR, min(0.25 * 2.0 ** (count - 1), LONGEST_GAP) if count else 0.0)
            mine = max(now, self._turns.get(address, now), self._next)
            if mine - now > LONGEST_WAIT:
                raise RightsError("Too many tries to sign in are waiting: try again in a minute.")
            self._turns = {one: at for one, at in self._turns.items() if at > now}
            self._turns[address] = mine + gap
            self._next = max(now, self._next) + OVERALL
        return mine - now

    def sign_in(self, password: str, request: Request) -> str:
        """A token for `check`; RightsError for a wrong password. Wait for the `turn` before."""
        _check_origin(request)
        if self._on_space:
            raise RightsError("This app does not sign in with a password.")
        if not self.asks_for_password:
            raise RightsError(NO_PASSWORD)
        address, now = _address(request), self._now()
        given = str(password).encode("utf-8", "surrogatepass")
        with self._lock:
            if self._link and hmac.compare_digest(given, self._link):
                self._link = b""  # it is good once
            elif not self._password or not hmac.compare_digest(given, self._password):
                count, _ = self._failures.get(address, (0, now))
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
        return self._check_session(token)

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
            if not self._password:
                raise RightsError(NO_PASSWORD)
            raise RightsError("Sign in first: there is no session, or it has ended.")
        return Who("admin")


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


def _secret(value: SecretStr | None) -> bytes:
    return value.get_secret_value().encode() if value else b""


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
