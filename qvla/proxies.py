"""The proxy that the environment names for requests to elsewhere: whether it can be used, and that
this machine itself is never reached through it.

Gradio asks its own app whether it is up, by HTTP, and opens a client as soon as it is imported. A
proxy for loopback, or one that the client cannot speak to, would so keep the app from starting.
"""

from __future__ import annotations

import os

import httpx

VARIABLES = ("http_proxy", "https_proxy", "all_proxy")
EXCEPTIONS = "no_proxy"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def spare(*hosts: str) -> None:
    """No request of this process, and of those that it starts, to loopback or `hosts` goes through
    a proxy.
    """
    # Of two spellings the lower one is read; other programs read the other.
    said = os.environ.get(EXCEPTIONS) or os.environ.get(EXCEPTIONS.upper()) or ""
    names = [name.strip() for name in said.split(",") if name.strip()]
    names += [host for host in (*LOOPBACK, *hosts) if host and host not in names]
    os.environ[EXCEPTIONS] = os.environ[EXCEPTIONS.upper()] = ",".join(names)


def fault() -> str | None:
    """What is wrong with the proxies that the environment names, in a sentence; None when requests
    can be made.
    """
    error = _refusal()
    if error is None:
        return None
    for name in (name for lower in VARIABLES for name in (lower, lower.upper())):
        value = os.environ.get(name)
        if value and (own := _refusal(value)) is not None:
            return _sentence(f"{name} names the proxy {_without_password(value)}", own)
    return _sentence("The proxy that the system or no_proxy names", error)


def _refusal(proxy: str | None = None) -> Exception | None:
    """Why an HTTP client cannot be made: with this proxy, or with what the environment says."""
    try:
        if proxy is None:
            httpx.Client().close()
        else:
            full = proxy if "://" in proxy else f"http://{proxy}"
            httpx.Client(proxy=full, trust_env=False).close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        return error
    return None


def _sentence(subject: str, error: Exception) -> str:
    if isinstance(error, ImportError):
        return (
            f"{subject}, for which a package is missing: run `pip install httpx[socks]`, name an "
            "http:// proxy, or unset it."
        )
    return (
        f"{subject}, which cannot be used: name one as http://host:port or socks5://host:port, or "
        "unset it."
    )


def _without_password(proxy: str) -> str:
    """A proxy's address without the name and password that may stand in it."""
    scheme, mark, rest = proxy.rpartition("://")
    return scheme + mark + rest.rpartition("@")[2]
