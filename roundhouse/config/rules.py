"""Rules that a configuration's values obey: each can check a node and describe itself as JSON Schema (2020-12).

Checks go on after a fault, so that a file is told all its faults at once.
"""

from __future__ import annotations

import difflib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from roundhouse.config.source import Node
from roundhouse.core.errors import ConfigError

__all__ = [
    "Anything",
    "DatabaseUrl",
    "Duration",
    "Either",
    "ListOf",
    "MapOf",
    "Number",
    "Pattern",
    "Rule",
    "Section",
    "Switch",
    "Text",
    "Url",
    "nearest",
]

Faults = list[ConfigError]
Schema = dict[str, Any]
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\Z")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def nearest(given: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or the known names."""
    names = list(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"


class Rule(ABC):
    """What a value must be. `check` gives the plain value, or None after adding a fault."""

    doc: str

    @abstractmethod
    def check(self, node: Node, path: str, faults: Faults) -> Any: ...

    @abstractmethod
    def schema(self) -> Schema: ...

    def refuse(self, node: Node, path: str, expected: str, faults: Faults) -> None:
        faults.append(node.error(f"{path}: expected {expected}, found {node.shown}", path))


@dataclass(frozen=True, slots=True)
class Text(Rule):
    doc: str = ""
    choices: tuple[str, ...] = ()
    empty: bool = False

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        if not isinstance(node.value, str):
            return self.refuse(node, path, "text", faults)
        if not node.value.strip() and not self.empty:
            return self.refuse(node, path, "text that is not empty", faults)
        if self.choices and node.value not in self.choices:
            faults.append(node.error(f'{path}: "{node.value}" is unknown{nearest(node.value, self.choices)}', path))
            return None
        return node.value

    def schema(self) -> Schema:
        said: Schema = {"type": "string", "description": self.doc}
        if self.choices:
            said["enum"] = list(self.choices)
        elif not self.empty:
            said["minLength"] = 1
        return said


@dataclass(frozen=True, slots=True)
class Pattern(Rule):
    """A regular expression that finds something."""

    doc: str = ""

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        if not isinstance(node.value, str):
            return self.refuse(node, path, "a regular expression", faults)
        try:
            empty = re.compile(node.value).fullmatch("") is not None
        except (re.error, RecursionError, OverflowError) as error:
            return self.refuse(node, path, f"a regular expression ({error})", faults)
        return self.refuse(node, path, "one that does not match nothing", faults) if empty else node.value

    def schema(self) -> Schema:
        return {"type": "string", "format": "regex", "minLength": 1, "description": self.doc}


@dataclass(frozen=True, slots=True)
class Url(Rule):
    """An address with its scheme: without one, a port would be read as a part of the name."""

    doc: str = ""

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        value = node.value
        if isinstance(value, str) and _is_url(value):
            return value
        expected = "a URL that begins with http:// or https://"
        if isinstance(value, str) and "@" in value:  # it may hold a password, which is not repeated
            faults.append(node.error(f"{path}: expected {expected}", path))
            return None
        if not isinstance(value, str) or node.secret or "://" in value or not _is_url(f"http://{value}"):
            return self.refuse(node, path, expected, faults)
        faults.append(node.error(f"{path}: {value!r} has no http:// or https://; did you mean http://{value}?", path))
        return None

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^https?://", "description": self.doc}


@dataclass(frozen=True, slots=True)
class DatabaseUrl(Rule):
    """The address of a PostgreSQL. It may hold a password, so it is never repeated in a message."""

    doc: str = ""

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        said = _wrong_with(node.value)
        if said:
            faults.append(node.error(f"{path}: {said}", path))
            return None
        return node.value

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^postgres(ql)?://", "description": self.doc}


def _wrong_with(value: Any) -> str:
    """Why it is no address of a PostgreSQL; empty = it is one."""
    if not isinstance(value, str) or not value.startswith(("postgresql://", "postgres://")):
        return "expected the address of a PostgreSQL, such as postgresql://user@host:5432/database"
    aside = "write the password as state.password, where it may have any character"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return f"it cannot be read as an address: a wrong port, or a password with characters of URLs; {aside}"
    if parts.netloc.count("@") > 1 or "#" in value:
        return f"its password has a character that means something in URLs; {aside}"
    if any(name == "password" for name, _ in parse_qsl(parts.query)):
        return f"a password does not belong into the parameters; {aside}"
    return "port 0 is none" if port == 0 else ""


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Number(Rule):
    """A number between `low` and `high`, both included; `whole`: an integer."""

    doc: str = ""
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        value = node.value
        allowed = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed) or not math.isfinite(value):
            return self.refuse(node, path, "a whole number" if self.whole else "a number", faults)
        if not self.low <= value <= self.high:
            return self.refuse(node, path, self._range(), faults)
        return value

    def _range(self) -> str:
        noun = "a whole number" if self.whole else "a number"
        if math.isinf(self.high):
            return f"{noun} of at least {self.low}"
        return f"{noun} from {self.low} to {self.high}"

    def schema(self) -> Schema:
        said: Schema = {"type": "integer" if self.whole else "number", "description": self.doc}
        if math.isfinite(self.low):
            said["minimum"] = self.low
        if math.isfinite(self.high):
            said["maximum"] = self.high
        return said


@dataclass(frozen=True, slots=True)
class Switch(Rule):
    doc: str = ""

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        if not isinstance(node.value, bool):
            return self.refuse(node, path, "true or false", faults)
        return node.value

    def schema(self) -> Schema:
        return {"type": "boolean", "description": self.doc}


@dataclass(frozen=True, slots=True)
class Duration(Rule):
    """Seconds, or text such as `500ms`, `30s`, `5m`, `2h`; the value is seconds."""

    doc: str = ""
    low: float = 0.0
    high: float = math.inf

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        value = node.value
        if isinstance(value, str) and (found := _DURATION.match(value.strip())):
            value = float(found.group(1)) * _UNIT_S[found.group(2)]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return self.refuse(node, path, "seconds, or a time such as 30s or 5m", faults)
        if not self.low <= value <= self.high:
            top = "" if math.isinf(self.high) else f" and at most {self.high:g} s"
            return self.refuse(node, path, f"a time of at least {self.low:g} s{top}", faults)
        return float(value)

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "number", "minimum": self.low},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)?$"},
            ],
            "description": self.doc,
        }


@dataclass(frozen=True, slots=True)
class ListOf(Rule):
    """A list; `single`: one value alone stands for a list of it."""

    item: Rule
    doc: str = ""
    single: bool = False
    least: int = 0

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        if self.single and not isinstance(node.value, (list, dict)):
            value = self.item.check(node, path, faults)
            return None if value is None else [value]
        if not isinstance(node.value, list):
            return self.refuse(node, path, "a list", faults)
        if len(node.value) < self.least:
            return self.refuse(node, path, f"a list of at least {self.least}", faults)
        values = [self.item.check(item, f"{path}[{place}]", faults) for place, item in enumerate(node.value)]
        return [value for value in values if value is not None]

    def schema(self) -> Schema:
        many: Schema = {"type": "array", "items": self.item.schema(), "minItems": self.least}
        if self.single:
            return {"anyOf": [self.item.schema(), many], "description": self.doc}
        return {**many, "description": self.doc}


@dataclass(frozen=True, slots=True)
class Either(Rule):
    """A value, or a mapping where one is needed."""

    single: Rule
    mapping: Rule
    doc: str = ""

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        rule = self.mapping if isinstance(node.value, dict) else self.single
        return rule.check(node, path, faults)

    def schema(self) -> Schema:
        return {"anyOf": [self.single.schema(), self.mapping.schema()], "description": self.doc}


@dataclass(frozen=True, slots=True)
class MapOf(Rule):
    """A mapping of names of the user's choice."""

    item: Rule
    doc: str = ""

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        if not isinstance(node.value, dict):
            return self.refuse(node, path, "a mapping", faults)
        values = {name: self.item.check(item, f"{path}.{name}", faults) for name, item in node.value.items()}
        return {name: value for name, value in values.items() if value is not None}

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.item.schema(), "description": self.doc}


@dataclass(frozen=True, slots=True)
class Anything(Rule):
    """Passed on as it is."""

    doc: str = ""

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        return plain(node)

    def schema(self) -> Schema:
        return {"description": self.doc}


@dataclass(frozen=True, slots=True)
class Section(Rule):
    """A mapping of known keys. The value holds only the keys that are there."""

    fields: Mapping[str, Rule]
    doc: str = ""
    required: tuple[str, ...] = ()
    named: str = field(default="")

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        if not isinstance(node.value, dict):
            return self.refuse(node, path or "the file", "a mapping", faults)
        found: dict[str, Any] = {}
        for key, item in node.value.items():
            here = f"{path}.{key}" if path else key
            if key not in self.fields:
                place = f" in {self.named or path}" if path else ""
                faults.append(item.error(f'unknown key "{key}"{place}{nearest(key, self.fields)}', here))
                continue
            value = self.fields[key].check(item, here, faults)
            if value is not None:
                found[key] = value
        for key in self.required:
            if key not in node.value:
                faults.append(node.error(f'{path or "the file"}: the key "{key}" is missing', f"{path}.{key}"))
        return found

    def schema(self) -> Schema:
        said: Schema = {
            "type": "object",
            "properties": {name: rule.schema() for name, rule in self.fields.items()},
            "additionalProperties": False,
            "description": self.doc,
        }
        if self.required:
            said["required"] = list(self.required)
        return said


def plain(node: Node) -> Any:
    """The bare value of a node and all below it."""
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    return node.value
