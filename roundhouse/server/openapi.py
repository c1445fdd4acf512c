"""The OpenAPI document (3.1), made from the table of paths and the types that parse their bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from roundhouse.access.keys import Role
from roundhouse.server.exchange import send_bytes
from roundhouse.server.paths import Path

__all__ = ["Document", "document"]

_REFS = "#/components/schemas/{name}"
_ANY = {"application/json": {"schema": {"type": "object"}}}
_STREAMS = {
    "Ollama": "application/x-ndjson",
}


class Document:
    """`GET /openapi.json`."""

    def __init__(self, table: Sequence[Path]) -> None:
        self._path = Path("GET", "/openapi.json", self, "This document.", role=None)
        self._table = [*table, self._path]
        self._body = b""

    def path(self) -> Path:
        return self._path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._body:
            self._body = msgspec.json.encode(document(self._table))
        await send_bytes(send, self._body)


def document(table: Sequence[Path]) -> dict[str, Any]:
    """For the paths of `table`."""
    bodies = list(dict.fromkeys(one.body for one in table if one.body is not None))
    schemas, components = msgspec.json.schema_components(bodies, ref_template=_REFS)
    by_type: dict[type | None, Any] = dict(zip(bodies, schemas, strict=True))
    said: dict[str, dict[str, Any]] = {}
    for one in table:
        said.setdefault(one.path, {})[one.method.lower()] = _operation(one, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Roundhouse",
            "version": version("roundhouse"),
            "description": "One contract over the backends that run language models, in the wires of OpenAI, "
            "Anthropic and Ollama.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": said,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {"Refused": {"description": "Refused; the body says why.", "content": _ANY}},
        },
    }


def _operation(one: Path, by_type: dict[type | None, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {**_ANY}
    if one.path == "/" or one.path.startswith("/static/"):
        content = {"*/*": {}}
    if one.streams:
        content[_STREAMS.get(one.group, "text/event-stream")] = {"schema": {"type": "string"}}
    said: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{one.method.lower()}{one.path}").strip("_"),
        "summary": one.doc,
        "tags": [one.group],
        "responses": {"200": {"description": "As asked.", "content": content}, "default": _refused()},
    }
    if one.path.startswith("/static/") or one.path == "/readyz":
        said["responses"]["default"] = {"description": "Not now."}
    if one.role is not None:
        said["security"] = [{"key": []}]
        if one.role is Role.ADMIN:
            said["description"] = "For keys of the role admin."
    if one.body is not None:
        said["requestBody"] = {"required": True, "content": {"application/json": {"schema": by_type[one.body]}}}
    names = re.findall(r"{(\w+)}", one.path)
    if names:
        said["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return said


def _refused() -> dict[str, str]:
    return {"$ref": "#/components/responses/Refused"}
