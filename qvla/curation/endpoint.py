"""One question to an OpenAI-compatible vision endpoint, and what its ways to say no mean."""

from __future__ import annotations

import base64
import io
import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from PIL import Image

from qvla.curation.keys import CurationError

LONGEST_SIDE = 1024  # pixels of a photo as it is sent
QUALITY = 90  # of its JPEG
INSTRUCTION = "Answer the question about the photo with a single word, and nothing else."
MOST_TOKENS = 16
PATIENCE = httpx.Timeout(60.0, connect=15.0)  # seconds
# What OpenAI and those who speak as it does call a quota that is gone.
SPENT = ("insufficient_quota", "billing_hard_limit_reached", "quota_exceeded", "credit")


class KeyRefusedError(CurationError):
    """This key is not, or no longer, good for a request; the message is a clause that says why."""


class KeyLimitedError(CurationError):
    """This key comes too fast. `seconds` is how long it is told to wait, None if it is not told."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__("its requests come too fast")
        self.seconds = seconds


class ServerBusyError(CurationError):
    """The server cannot answer anybody just now; `seconds` as of KeyLimitedError."""

    def __init__(self, sentence: str, seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.seconds = seconds


class QuestionRefusedError(CurationError):
    """The server answers, but not this question about this photo."""


class Endpoint:
    """`address` is the API's, such as `https://api.example.com/v1`; close it, or use it in `with`.

    Raises CurationError for an address that is none.
    """

    def __init__(self, address: str, model: str, timeout: httpx.Timeout = PATIENCE) -> None:
        try:
            url = httpx.URL(address)
            known = url.scheme in ("http", "https") and bool(url.host)
        except httpx.InvalidURL:
            known = False
        if not known:
            raise CurationError(
                "The endpoint must be an address such as https://api.example.com/v1."
            )
        path = address.rstrip("/").removesuffix("/chat/completions")
        self._url = f"{path}/chat/completions"
        self._model = model
        # Without redirects: a key is for this host alone.
        self._client = httpx.Client(timeout=timeout, follow_redirects=False)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, photo: str, question: str, secret: str) -> str:
        """The answer to a question about a photo, given as a data URL.

        Raises KeyRefusedError, KeyLimitedError, ServerBusyError, QuestionRefusedError, and
        CurationError for what no other key, wait or photo would mend.
        """
        content = [
            {"type": "text", "text": question},
            {"type": "image_url", "image_url": {"url": photo}},
        ]
        body = {
            "model": self._model,
            "messages": [
                {"role": "system", "content": INSTRUCTION},
                {"role": "user", "content": content},
            ],
            "max_tokens": MOST_TOKENS,
            "temperature": 0,
        }
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        try:
            response = self._client.post(self._url, json=body, headers=headers)
        except httpx.TimeoutException as error:
            raise ServerBusyError("the endpoint did not answer in time") from error
        except httpx.RequestError as error:
            raise ServerBusyError("the connection to the endpoint broke off") from error
        if response.status_code == 200:
            return _answer(response)
        raise _fault(response, secret)


def data_url(photo: Image.Image) -> str:
    """An RGB image as JPEG in a data URL, no side longer than LONGEST_SIDE."""
    small = photo.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _answer(response: httpx.Response) -> str:
    try:
        said = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ServerBusyError("the endpoint's answer is no whole chat completion") from error
    answer = _word(said) if isinstance(said, str) else ""
    if not answer:
        raise QuestionRefusedError("the endpoint's answer is empty")
    return answer


def _word(said: str) -> str:
    """An answer in one line, without the quotes around it and the full stop behind it."""
    whole = said.encode("utf-8", "replace").decode()  # JSON may hold half a character
    return " ".join(whole.split()).strip("\"'`*“”‘’ ").rstrip(".! ")


def _fault(response: httpx.Response, secret: str) -> CurationError:
    """What a status means. The server's own words may hold the key, which is taken out of them."""
    status, error = response.status_code, _error(response)
    said = " ".join(str(error.get("message") or "").split())
    if secret:
        said = said.replace(secret, "…")
    said = f"{status} {said[:200]}".strip().rstrip(".")
    names = f"{error.get('code')} {error.get('type')}".lower()
    if status in (401, 402, 403):
        return KeyRefusedError(f"the endpoint refuses it ({said})")
    if status == 429:
        if any(name in names for name in SPENT):
            return KeyRefusedError(f"its quota is gone ({said})")
        return KeyLimitedError(_seconds(response))
    if status >= 500 or status in (408, 409, 425):
        return ServerBusyError(f"the endpoint is busy ({said})", _seconds(response))
    if status in (400, 413, 415, 422):
        return QuestionRefusedError(f"the endpoint refuses the question ({said})")
    return CurationError(f"The endpoint answers {said}: check the address and the model's name.")


def _error(response: httpx.Response) -> dict[str, Any]:
    """The error of OpenAI's JSON; empty where there is none."""
    try:
        body = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if isinstance(body, list) and body:  # as Gemini's endpoint has it
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {"message": error}


def _seconds(response: httpx.Response) -> float | None:
    """What `Retry-After` says, in seconds or as a date."""
    said = response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(said)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
