"""What a prompt may be given: typed variables, checked before anything is rendered, written as text in one way.

A value is data. It is turned into text here, once, and is never read as a template or asked for an attribute.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from roundhouse.core.errors import TemplateError

__all__ = ["VALUE_LIMIT_CHARACTERS", "Cut", "Kind", "Variable", "checked", "nearest"]

VALUE_LIMIT_CHARACTERS = 8 << 20
# No list is written out that could not be read.
_LIST_LIMIT = 100_000


class Kind(Enum):
    """The type of a value. `ANY` is what an undeclared variable takes: text, or a number as Python writes it."""

    ANY = "any"
    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    LIST = "list"


class Cut(Enum):
    """What may be left out of a value that is too long for a window."""

    NOTHING = "nothing"
    START = "start"
    END = "end"
    PARAGRAPHS = "paragraphs"


_EXPECTED = {
    Kind.ANY: "text or a number",
    Kind.TEXT: "text",
    Kind.INTEGER: "a whole number",
    Kind.NUMBER: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.LIST: "a list of texts and numbers",
}


@dataclass(frozen=True, slots=True)
class Variable:
    """`default` None = a value is required. `choices`: the texts allowed; empty = any.

    `cut` says what may be left out where the value is too long for a window.
    """

    name: str
    kind: Kind = Kind.ANY
    description: str = ""
    default: str | int | float | bool | list[Any] | None = None
    choices: tuple[str, ...] = ()
    cut: Cut = Cut.NOTHING
    most_characters: int = VALUE_LIMIT_CHARACTERS

    def text_of(self, value: Any, template: str) -> str:
        """`value` as it will stand in the prompt; raises `TemplateError` for one of another type, choice or size."""
        text = _written(self.kind, value)
        if text is None:
            expected, found = _EXPECTED[self.kind], type(value).__name__
            raise self._refused(template, f"must be {expected}, not {found}")
        if self.choices and text not in self.choices:
            near = difflib.get_close_matches(text, self.choices, n=1)
            said = f'; did you mean "{near[0]}"?' if near else ""
            raise self._refused(template, f"must be one of {', '.join(self.choices)}{said}")
        most = min(self.most_characters, VALUE_LIMIT_CHARACTERS)
        if len(text) > most:
            raise self._refused(template, f"is longer than {_size(most)}")
        return text

    def read(self, text: str) -> Any:
        """A value from a command line, by this variable's type; what is none stays text, and is refused later."""
        try:
            if self.kind is Kind.INTEGER:
                return int(text)
            if self.kind is Kind.NUMBER:
                return float(text)
        except ValueError:
            return text
        if self.kind is Kind.BOOLEAN:
            return {"true": True, "false": False}.get(text.lower(), text)
        return text.split(",") if self.kind is Kind.LIST else text

    def _refused(self, template: str, said: str) -> TemplateError:
        return TemplateError(
            f'template "{template}": the value of "{self.name}" {said}', template=template, variable=self.name
        )


def checked(template: str, variables: Mapping[str, Variable], values: Mapping[str, Any]) -> dict[str, str]:
    """Every variable's text: of `values`, else its default.

    Raises `TemplateError` that names the template and the unknown, missing or ill-typed variable, and the near name.
    """
    for given in values:
        if given not in variables:
            raise TemplateError(
                f'template "{template}" has no variable "{given}"{nearest(given, variables)}',
                template=template,
                variable=given,
            )
    texts: dict[str, str] = {}
    for name, variable in variables.items():
        value = values.get(name, variable.default)
        if value is None:
            said = f'template "{template}" needs a value for "{name}"'
            raise TemplateError(said, template=template, variable=name)
        texts[name] = variable.text_of(value, template)
    return texts


def nearest(given: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, else what there is."""
    names = list(known)
    near = difflib.get_close_matches(given, names, n=1)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; it has {', '.join(names)}" if names else "; it has none"


def _written(kind: Kind, value: Any) -> str | None:
    """The text of a value of `kind`; None = it is none."""
    if kind is Kind.BOOLEAN:
        return str(value).lower() if isinstance(value, bool) else None
    if kind is Kind.LIST:
        return _listed(value)
    if isinstance(value, str):
        return value if kind in (Kind.ANY, Kind.TEXT) else None
    if isinstance(value, bool) or kind is Kind.TEXT or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int):
        # Python refuses to write larger ones; nobody means them.
        return str(value) if value.bit_length() <= 4096 else None
    return str(value) if kind is not Kind.INTEGER and math.isfinite(value) else None


def _listed(value: Any) -> str | None:
    """One line per item."""
    if not isinstance(value, (list, tuple)) or len(value) > _LIST_LIMIT:
        return None
    lines = [_written(Kind.ANY, item) for item in value]
    return None if None in lines else "\n".join(f"- {line}" for line in lines)


def _size(characters: int) -> str:
    return f"{characters >> 20} MiB" if characters >= 1 << 20 else f"{characters} characters"
