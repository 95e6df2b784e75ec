"""An OpenID provider on this machine: discovery, authorize, token, userinfo and its keys.

It speaks the authorisation code flow as Hugging Face's does to a Space. Whose session a browser has
with it, the cookie `account` says; there are no passwords to be typed.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.support.servers import http_server

CLIENT_ID, CLIENT_SECRET, SCOPES = "the-space", "its-secret", "openid profile"


class Provider(BaseHTTPRequestHandler):
    """One session of one browser or client; what all share is set by `openid_provider`."""

    issuer: str
    callback: str  # where codes may go: the Space's own address, as it was registered
    key: RSAKey
    codes: dict[str, dict[str, str]]
    tokens: dict[str, str]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/.well-known/openid-configuration":
            self._json(self._discovery())
        elif path == "/oauth/jwks":
            self._json({"keys": [self.key.as_dict(private=False, use="sig", alg="RS256")]})
        elif path == "/oauth/authorize":
            self._authorize({name: one[0] for name, one in parse_qs(self._query()).items()})
        elif path == "/oauth/userinfo":
            account = self.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
            self._json(claims(account)) if account else self._json({"error": "invalid_token"}, 401)
        else:
            self._json({"error": "not_found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: one[0] for name, one in parse_qs(body).items()}
        asked = self.codes.pop(form.get("code", ""), None)  # a code is good once
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {basic}":
            self._json({"error": "invalid_client"}, 401)
        elif asked is None or asked["redirect_uri"] != form.get("redirect_uri"):
            self._json({"error": "invalid_grant"}, 400)
        else:
            self._json(self._tokens(asked))

    def _authorize(self, asked: dict[str, str]) -> None:
        account = SimpleCookie(self.headers.get("Cookie", "")).get("account")
        where = asked.get("redirect_uri", "")
        known = asked.get("client_id") == CLIENT_ID and where.split("?")[0] == self.callback
        if not known or asked.get("response_type") != "code" or account is None:
            self._json({"error": "invalid_request"}, 400)
            return
        code = secrets.token_urlsafe(16)
        self.codes[code] = {**asked, "account": account.value}
        answer = urlencode({"code": code, "state": asked["state"]})
        self.send_response(302)
        self.send_header("Location", f"{where}{'&' if '?' in where else '?'}{answer}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _tokens(self, asked: dict[str, str]) -> dict[str, Any]:
        now, token = int(time.time()), secrets.token_urlsafe(16)
        self.tokens[token] = asked["account"]
        told = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 3600}
        told |= {"nonce": asked["nonce"], **claims(asked["account"])}
        signed = jwt.encode({"alg": "RS256", "kid": self.key.kid}, told, self.key)
        return {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": 3600,
            "scope": SCOPES,
            "id_token": signed,
        }

    def _discovery(self) -> dict[str, Any]:
        ends = {"authorization": "authorize", "token": "token", "userinfo": "userinfo"}
        return {
            "issuer": self.issuer,
            **{f"{one}_endpoint": f"{self.issuer}/oauth/{path}" for one, path in ends.items()},
            "jwks_uri": f"{self.issuer}/oauth/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "scopes_supported": SCOPES.split(),
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        }

    def _query(self) -> str:
        return urlsplit(self.path).query

    def _json(self, value: object, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def claims(account: str) -> dict[str, str]:
    """What is told of an account, in Hugging Face's own fields."""
    return {
        "sub": f"number-of-{account}",
        "name": account.title(),
        "preferred_username": account,
        "profile": f"https://huggingface.co/{account}",
        "picture": f"https://huggingface.co/avatars/{account}.svg",
    }


@contextmanager
def openid_provider(callback: str) -> Iterator[str]:
    """Its address; codes go to this callback alone."""
    key = RSAKey.generate_key(2048, {"kid": "of-the-tests"})
    shared = {"callback": callback, "key": key, "codes": {}, "tokens": {}}
    own = type("Own", (Provider,), shared)
    with http_server(own) as own.issuer:
        yield own.issuer
