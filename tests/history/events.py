"""Requests that ended."""

from typing import Any

from roundhouse.telemetry.events import RequestEnded


def ended(**fields: Any) -> RequestEnded:
    return RequestEnded(**{
        "request_id": "r", "route": "default", "target": "one", "outcome": "ok", "total_s": 1.0, "first_token_s": 0.25,
        "decoding_s": 0.5, "input_tokens": 10, "output_tokens": 6, "model": "m", **fields,
    })  # fmt: skip
