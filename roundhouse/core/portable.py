"""An error as plain values, for whoever is told of it in another process, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from roundhouse.core.errors import Attempt, Error

__all__ = ["portable", "restored"]

_KIND = "kind"


def portable(error: Error) -> dict[str, Any]:
    """All of its fields, and its class by name."""
    told: dict[str, Any] = {_KIND: type(error).__name__}
    for one in dataclasses.fields(error):
        value = getattr(error, one.name)
        if isinstance(value, Error):
            value = portable(value)
        elif one.name == "attempts":
            value = [dataclasses.asdict(attempt) for attempt in value]
        told[one.name] = value
    return told


def restored(told: Mapping[str, Any]) -> Error:
    """The same error. One whose class is not known here is an `Error` with its message."""
    kind = _kinds(Error).get(told[_KIND])
    if kind is None:
        return Error(told["message"])
    fields = {name: _value(name, value) for name, value in told.items() if name != _KIND}
    return kind(**fields)


def _value(name: str, value: Any) -> Any:
    if name == "attempts":
        return tuple(Attempt(**attempt) for attempt in value)
    if isinstance(value, Mapping) and _KIND in value:
        return restored(value)
    return tuple(value) if isinstance(value, list) else value


def _kinds(kind: type[Error]) -> dict[str, type[Error]]:
    known = {kind.__name__: kind}
    for below in kind.__subclasses__():
        known |= _kinds(below)
    return known
