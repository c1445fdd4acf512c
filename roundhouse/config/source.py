"""Where settings are written: YAML whose every value knows its file, line and column; the environment; flags.

PyYAML's composer gives nodes with positions; only plain YAML types are read, so a file can build no object. Aliases are
refused: a configuration needs none, and a few lines of them can unfold to gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from roundhouse.core.errors import ConfigError

__all__ = ["Node", "leaf", "overlay", "parse_yaml", "read_file"]

_FILE_LIMIT_BYTES = 1 << 20
_DEPTH_LIMIT = 20
_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\{)")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it was written. `value`: a scalar, a list of nodes, or a dict of nodes.

    `secret`: it came out of the environment by `${VAR}` and is never shown.
    """

    value: Any
    source: str
    line: int = 0
    column: int = 0
    secret: bool = False

    def error(self, message: str, key: str = "") -> ConfigError:
        return ConfigError(message, source=self.source, line=self.line, column=self.column, key=key)

    @property
    def shown(self) -> str:
        """The value as an error message may show it."""
        if self.secret:
            return "a value from the environment"
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        if self.value is None:
            return "nothing"
        text = repr(self.value) if isinstance(self.value, str) else str(self.value).lower()
        return text if len(text) <= 60 else text[:57] + "..."


def leaf(value: Any, source: str) -> Node:
    """A value that stands in no file, with everything below it."""
    if isinstance(value, Mapping):
        return Node({key: leaf(item, source) for key, item in value.items()}, source)
    if isinstance(value, (list, tuple)):
        return Node([leaf(item, source) for item in value], source)
    return Node(value, source)


def read_file(path: Path, environ: Mapping[str, str], *, begins: str = "llm") -> Node:
    """The mapping in the YAML file at `path`, which usually `begins` with this key; raises `ConfigError`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("there is no such file", source=str(path)) from None
    except IsADirectoryError:
        raise ConfigError("this is a folder; name a YAML file in it", source=str(path)) from None
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror or error}", source=str(path)) from error
    if len(data) > _FILE_LIMIT_BYTES:
        raise ConfigError(
            f"it is larger than {_FILE_LIMIT_BYTES >> 20} MiB; that is no configuration", source=str(path)
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("it is not UTF-8 text; save it as UTF-8", source=str(path), line=line) from error
    return parse_yaml(text, str(path), environ, begins=begins)


def parse_yaml(text: str, source: str, environ: Mapping[str, str], *, begins: str = "llm") -> Node:
    """The mapping in `text`; raises `ConfigError` with line and column."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        said = f"the character {error.character!r} is not allowed in YAML"
        raise ConfigError(said, source=source, line=line) from error
    try:
        root = loader.get_single_node()
        if root is None:
            raise ConfigError(f"it is empty; it should begin with {begins}:", source=source)
        node = _Reader(loader, source, environ).read(root, 0)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, source) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"it is not valid YAML: {error}", source=source) from error
    finally:
        loader.dispose()
    if not isinstance(node.value, dict):
        raise node.error(f"expected a mapping that begins with {begins}:, found {node.shown}")
    return node


def _syntax_error(error: yaml.MarkedYAMLError, source: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    problem = error.problem or error.context or "it cannot be read"
    context = f" ({error.context})" if error.context and error.context != problem else ""
    if "\\t" in problem:
        problem, context = "a tab is used for indentation; use spaces", ""
    return ConfigError(f"YAML syntax: {problem}{context}", source=source, line=line, column=column)


class _Reader:
    def __init__(self, loader: yaml.SafeLoader, source: str, environ: Mapping[str, str]) -> None:
        self._loader = loader
        self._source = source
        self._environ = environ
        self._seen: set[int] = set()

    def read(self, node: yaml.Node, depth: int) -> Node:
        here = Node(None, self._source, node.start_mark.line + 1, node.start_mark.column + 1)
        if id(node) in self._seen:
            raise here.error("YAML aliases (*name) are not allowed here; write the value out")
        self._seen.add(id(node))
        if depth > _DEPTH_LIMIT:
            raise here.error(f"it is nested more than {_DEPTH_LIMIT} levels deep")
        if isinstance(node, yaml.MappingNode):
            return replace(here, value=self._mapping(node, depth))
        if isinstance(node, yaml.SequenceNode):
            return replace(here, value=[self.read(item, depth + 1) for item in node.value])
        return self._scalar(node, here)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key = self.read(key_node, depth + 1)
            if not isinstance(key.value, str):
                raise key.error(f"a key must be text, found {key.shown}")
            if key.value in found:
                first = found[key.value].line
                raise key.error(f'"{key.value}" stands twice; the first is in line {first}', key.value)
            found[key.value] = self.read(value_node, depth + 1)
        return found

    def _scalar(self, node: yaml.Node, here: Node) -> Node:
        if not isinstance(node.value, str) or "$" not in node.value:
            return replace(here, value=self._construct(node, here))
        text = _VARIABLE.sub(lambda found: self._variable(found, here), node.value)
        secret = any(found.group(1) for found in _VARIABLE.finditer(node.value))
        tag = node.tag
        if getattr(node, "style", None) is None:  # unquoted: what comes from the environment may be a number
            tag = self._loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        filled = yaml.ScalarNode(tag, text, node.start_mark, node.end_mark)
        return replace(here, value=self._construct(filled, here), secret=secret)

    def _construct(self, node: yaml.Node, here: Node) -> Any:
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise here.error(f"{node.value!r} cannot be read as the YAML type {node.tag}") from error

    def _variable(self, found: re.Match[str], here: Node) -> str:
        if found.group() == "$$":
            return "$"
        name, default = found.group(1), found.group(2)
        if name is None:
            raise here.error("${ without a variable's name and }; write $${ for the characters themselves")
        value = self._environ.get(name, default)
        if value is None:
            raise here.error(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        return value


def overlay(root: Node, path: tuple[str, ...], value: Node) -> Node:
    """`root` with `value` at `path`, whose mappings are made where they are absent."""
    if not path:
        return value
    inner = root.value if isinstance(root.value, dict) else {}
    below = inner.get(path[0], Node({}, value.source))
    return replace(root, value={**inner, path[0]: overlay(below, path[1:], value)})
