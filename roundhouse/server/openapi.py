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
_ANY: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
_TEXT = {"type": "string"}
_EVENTS = "Server-sent events, each with one JSON object; an error after the first byte is an event of its own."
_LINES = "Lines, each one JSON object; an error after the first byte is a line of its own."
_STREAMS = {"Ollama": ("application/x-ndjson", _LINES)}
# What is said beside an answer, whichever wire (roundhouse.server.dialect.extension).
_TOLD = {
    "type": "object",
    "description": "Who answered after which attempts, how long each part took in seconds, and what to know of it.",
    "properties": {
        "route": _TEXT,
        "target": _TEXT,
        "attempts": {"type": "array", "items": {"type": "object"}},
        "warnings": {"type": "array", "items": _TEXT},
        "prompt": {"type": "object"},
        "experiment": {"type": "object"},
        "seams": {"type": "array", "items": {"type": "object"}},
        "timings": {"type": "object", "additionalProperties": {"type": "number"}},
    },
}
_OPENAI_ERROR = {
    "type": "object",
    "properties": {
        "message": _TEXT,
        "type": _TEXT,
        "param": {"type": ["string", "null"]},
        "code": _TEXT,
        "attempts": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["message", "type", "param", "code"],
}
_ANTHROPIC_ERROR = {"type": "object", "properties": {"type": _TEXT, "message": _TEXT}, "required": ["type", "message"]}


def _error(form: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"error": form}, "required": ["error"]}


# As the forms of roundhouse.server.errors.
_ERRORS = {"Error": _error(_OPENAI_ERROR), "AnthropicError": _error(_ANTHROPIC_ERROR), "OllamaError": _error(_TEXT)}
_HEADERS: dict[str, Any] = {
    "x-request-id": {"description": "Of a generated answer: by it `/admin/decisions/{request_id}` tells why."},
    "x-roundhouse-target": {"description": "The target that answered."},
    "retry-after": {"description": "After how many seconds to come back; with 429 and 503."},
}
_SAID_BY_HEADERS = {"200": ("x-request-id", "x-roundhouse-target"), "4XX": ("retry-after",)}
_REFUSALS = {
    "4XX": "Refused: 400 and 422 for what was asked, 401, 403 and 429 for the key, 404 for a name, 405 for a method, "
    "413 and 415 for the body.",
    "5XX": "Nothing could answer: 502 to 504 for the backends, 503 also for a full queue.",
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
            "schemas": {**components, **_ERRORS, "Told": _TOLD},
            "headers": {name: {**said, "schema": _TEXT} for name, said in _HEADERS.items()},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "x_api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _content(one: Path) -> dict[str, Any]:
    if one.path == "/" or one.path.startswith("/static/"):
        return {"*/*": {}}
    if one.path == "/metrics":
        return {"text/plain": {"schema": _TEXT}}
    content = {**_ANY}
    if one.metered and one.streams:
        told = {"type": "object", "properties": {"roundhouse": {"$ref": _REFS.format(name="Told")}}}
        content = {"application/json": {"schema": told}}
    if one.streams:
        kind, doc = _STREAMS.get(one.group, ("text/event-stream", _EVENTS))
        content[kind] = {"schema": {**_TEXT, "description": doc}}
    return content


def _responses(one: Path) -> dict[str, Any]:
    name = {"Ollama": "OllamaError", "Anthropic": "AnthropicError"}.get(one.group, "Error")
    refusal: dict[str, Any] = {"application/json": {"schema": {"$ref": _REFS.format(name=name)}}}
    said: dict[str, Any] = {"200": {"description": "As asked.", "content": _content(one)}}
    said |= {status: {"description": doc, "content": refusal} for status, doc in _REFUSALS.items()}
    if one.path.startswith("/static/") or one.path == "/readyz":
        said["5XX"] = {"description": "Not now.", "content": _ANY}
    if one.metered and one.streams:
        for status, headers in (*_SAID_BY_HEADERS.items(), ("5XX", ("x-request-id", "retry-after"))):
            said[status]["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return said


def _operation(one: Path, by_type: dict[type | None, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{one.method.lower()}{one.path}").strip("_"),
        "summary": one.doc,
        "tags": [one.group],
        "responses": _responses(one),
    }
    if one.role is not None:
        said["security"] = [{"key": []}, {"x_api_key": []}]
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
