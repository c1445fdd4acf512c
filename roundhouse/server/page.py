"""The page at `/`: files that come with the package, read once, answered from memory, with a strict content policy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import resources

from starlette.types import Receive, Scope, Send

from roundhouse.server.paths import Path

__all__ = ["page"]

_TYPES = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
    "txt": b"text/plain; charset=utf-8",
}
# Nothing from elsewhere, nothing inline, nothing framed.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _File:
    def __init__(self, name: str, data: bytes) -> None:
        self._data = data
        self._tag = b'"' + hashlib.sha256(data).hexdigest()[:20].encode() + b'"'
        self._kind = _TYPES[name.rpartition(".")[2]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", self._kind),
            (b"etag", self._tag),
            (b"cache-control", b"no-cache"),
            (b"content-security-policy", _POLICY),
        ]
        known = any(name == b"if-none-match" and value == self._tag for name, value in scope["headers"])
        if known:
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        headers.append((b"content-length", str(len(self._data)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._data})


class _Root:
    """The page for browsers; for others the words by which programs made for Ollama know that it is there."""

    def __init__(self, index: _File) -> None:
        self._index = index

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = next((value for name, value in scope["headers"] if name == b"accept"), b"")
        if b"text/html" in accepted:
            await self._index(scope, receive, send)
            return
        text = b"Ollama is running"
        headers = [(b"content-type", _TYPES["txt"]), (b"content-length", str(len(text)).encode()), (b"vary", b"accept")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


def page() -> Iterator[Path]:
    """The paths of the page and of all its files."""
    folder = resources.files("roundhouse.server") / "static"
    files = {entry.name: _File(entry.name, entry.read_bytes()) for entry in folder.iterdir() if entry.is_file()}
    root = _Root(files.pop("index.html"))
    yield Path("GET", "/", root, "The dashboard.", role=None)
    yield Path("HEAD", "/", root, "Whether the server is there.", role=None)
    for name, file in sorted(files.items()):
        yield Path("GET", f"/static/{name}", file, "A file of the dashboard.", role=None)
