"""What a chat request meets when it cannot be answered, in OpenAI's own JSON shape."""

from __future__ import annotations

from typing import Any

from qvla.errors import QvlaError

RETRY_SECONDS = 5  # what a client that comes too early is told to wait


class ChatError(QvlaError):
    """One sentence with the HTTP status and, where they help, the field and OpenAI's own code."""

    def __init__(
        self, sentence: str, status: int = 400, *, param: str = "", code: str = ""
    ) -> None:
        super().__init__(sentence)
        self.status, self.param, self.code = status, param, code

    @property
    def headers(self) -> dict[str, str]:
        if self.status in (429, 503):
            return {"Retry-After": str(RETRY_SECONDS)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


def as_body(error: ChatError) -> dict[str, Any]:
    """The JSON of an error, as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": str(error),
            "type": kinds.get(error.status, kind),
            "param": error.param or None,
            "code": error.code or None,
        }
    }
