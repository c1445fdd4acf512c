"""The one table from an error's class to what HTTP says of it, in OpenAI's form."""

from __future__ import annotations

import math
from typing import Any

from roundhouse.core import errors as e

__all__ = ["body_of", "headers_of", "status_of"]

# The first class of an error's own line of descent that stands here rules.
_STATUS: dict[type[e.Error], tuple[int, str]] = {
    e.ModelNotFound: (404, "invalid_request_error"),
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
    e.Error: (500, "server_error"),
}


def _row(error: e.Error) -> tuple[int, str]:
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def status_of(error: e.Error) -> int:
    """The HTTP status; a backend's 429 stays a 429, so that clients slow down as they would have."""
    if isinstance(error, e.Overloaded) and error.rate_limited:
        return 429
    return _row(error)[0]


def headers_of(error: e.Error) -> dict[str, str]:
    """`Retry-After` in whole seconds where the error knows when to come back."""
    retry_after_s = getattr(error, "retry_after_s", None)
    return {} if retry_after_s is None else {"retry-after": str(max(1, math.ceil(retry_after_s)))}


def body_of(error: e.Error) -> dict[str, Any]:
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
