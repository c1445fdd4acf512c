"""What a backend must not tell: some services repeat the key that they refuse, also in the middle of a stream."""

from __future__ import annotations

import base64
from urllib.parse import unquote, urlsplit, urlunsplit

from roundhouse.providers.base import Endpoint

__all__ = ["login_of", "masked"]

_SHORTEST = 8


def masked(data: bytes, endpoint: Endpoint) -> bytes:
    """`data` with asterisks for the key and the headers that were sent."""
    for secret in (endpoint.key, *endpoint.headers.values()):
        if len(secret) >= _SHORTEST:
            data = data.replace(secret.encode(), b"***")
    return data


def login_of(url: str) -> tuple[str, dict[str, str]]:
    """`url` without a name and password in it, and the header that says them: an error may then name the URL."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, {}
    name, password = unquote(parts.username), unquote(parts.password or "")
    said = base64.b64encode(f"{name}:{password}".encode()).decode()
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, {"authorization": f"Basic {said}"}
