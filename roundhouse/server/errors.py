"""The one table from an error's class to what HTTP says of it, and each wire's form of saying it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from roundhouse.core import errors as e

__all__ = [
    "Encoded",
    "Form",
    "Stopping",
    "TooLarge",
    "Unasked",
    "anthropic_form",
    "form_of",
    "headers_of",
    "ollama_form",
    "openai_form",
    "status_of",
]


class TooLarge(e.InvalidRequest):
    """A body past the limit: HTTP has a status of its own for it."""


class Unasked(TooLarge):
    """Its client waits to be asked for the body (`Expect: 100-continue`) and never is; the connection ends."""


class Encoded(e.InvalidRequest):
    """A compressed body: a small one may unfold to anything, so none is taken."""


class Stopping(e.Error):
    """The server stops, and the time that it gives to what runs is over."""

    code = "server_stopping"
    retry_after_s = 1.0


# What a body says of an error, before it is JSON.
Form: TypeAlias = Callable[[e.Error], dict[str, Any]]

# The first class of an error's own line of descent that stands here rules.
_STATUS: dict[type[e.Error], tuple[int, str]] = {
    e.KeyRejected: (401, "authentication_error"),
    e.NotAllowed: (403, "permission_error"),
    e.RateLimited: (429, "rate_limit_error"),
    e.AccessError: (403, "permission_error"),
    e.ConfigError: (422, "invalid_request_error"),
    e.ModelNotFound: (404, "invalid_request_error"),
    TooLarge: (413, "invalid_request_error"),
    Encoded: (415, "invalid_request_error"),
    e.RequestError: (400, "invalid_request_error"),
    e.Overloaded: (503, "overloaded_error"),
    e.Loading: (503, "overloaded_error"),
    e.TimedOut: (504, "timeout_error"),
    e.ProviderError: (502, "backend_error"),
    e.QueueFull: (503, "overloaded_error"),
    e.AllProvidersFailed: (503, "backend_error"),
    e.EngineError: (503, "backend_error"),
    e.ResourceError: (503, "backend_error"),
    e.StoreError: (503, "backend_error"),
    Stopping: (503, "overloaded_error"),
    e.Error: (500, "server_error"),
}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _row(error: e.Error) -> tuple[int, str]:
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def status_of(error: e.Error) -> int:
    """The HTTP status; a backend's 429 stays a 429, so that clients slow down as they would have."""
    if isinstance(error, e.Overloaded) and error.rate_limited:
        return 429
    return _row(error)[0]


def headers_of(error: e.Error) -> dict[str, str]:
    """`Retry-After` in whole seconds where the error knows when to come back; how to sign in where a key is missing."""
    retry_after_s = getattr(error, "retry_after_s", None)
    headers = {} if retry_after_s is None else {"retry-after": str(max(1, math.ceil(retry_after_s)))}
    if isinstance(error, e.KeyRejected):
        headers["www-authenticate"] = 'Bearer realm="roundhouse"'
    if isinstance(error, Unasked):
        headers["connection"] = "close"
    return headers


def openai_form(error: e.Error) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`, with the attempts made where there were several."""
    said: dict[str, Any] = {
        "message": str(error),
        "type": _row(error)[1],
        "param": getattr(error, "param", None) or None,
        "code": error.code,
    }
    if isinstance(error, e.AllProvidersFailed):
        said["attempts"] = [
            {"target": a.target, "outcome": a.outcome, "reason": a.reason, "seconds": round(a.seconds, 4)}
            for a in error.attempts
        ]
    return {"error": said}


def ollama_form(error: e.Error) -> dict[str, Any]:
    """`{"error": "text"}`."""
    return {"error": str(error)}


def anthropic_form(error: e.Error) -> dict[str, Any]:
    """`{"type": "error", "error": {type, message}}`."""
    kind = _ANTHROPIC_TYPES.get(status_of(error), "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


def form_of(path: str) -> Form:
    """How the clients of a path expect to be told of an error."""
    if path.startswith("/api/"):
        return ollama_form
    return anthropic_form if path.startswith("/v1/messages") else openai_form
