"""Templates with `{name}` placeholders: parsed once, versioned by content, rendered as data.

`{{` and `}}` stand for braces. Nothing else may stand in braces: no attribute, index, conversion or format spec, so a
template cannot reach into a value, and a value is never read as a template.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from roundhouse.core.errors import TemplateError

__all__ = ["Rendered", "Span", "Template"]

TEMPLATE_LIMIT_CHARACTERS = 256 << 10
VALUE_LIMIT_CHARACTERS = 8 << 20
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|\{|\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text; `variable` names the value it came from, empty = the template's own words."""

    text: str
    variable: str = ""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered template, which still knows where each part came from."""

    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. `spans` with a `variable` are placeholders, whose text is empty."""

    name: str
    source: str
    spans: tuple[Span, ...]

    @classmethod
    def parse(cls, source: str, name: str = "template") -> Template:
        """Raises `TemplateError` with the line, if `source` is too long or something else stands in braces."""
        if len(source) > TEMPLATE_LIMIT_CHARACTERS:
            raise TemplateError(
                f'template "{name}" is longer than {TEMPLATE_LIMIT_CHARACTERS >> 10} KiB', template=name
            )
        spans: list[Span] = []
        literal: list[str] = []
        end = 0
        for found in _TOKEN.finditer(source):
            literal.append(source[end : found.start()])
            end = found.end()
            token, inside = found.group(), found.group(1)
            if token in ("{{", "}}"):
                literal.append(token[0])
            elif inside is not None and _NAME.match(inside):
                spans += [Span("".join(literal)), Span("", inside)]
                literal = []
            else:
                raise _bad_brace(name, source, found.start(), token)
        literal.append(source[end:])
        spans.append(Span("".join(literal)))
        return cls(name, source, tuple(span for span in spans if span.text or span.variable))

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the placeholders, in order of first use."""
        return tuple(dict.fromkeys(span.variable for span in self.spans if span.variable))

    @property
    def version(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:12]

    def render(self, values: Mapping[str, str]) -> Rendered:
        """The template with `values` in place.

        Raises `TemplateError` for a missing or unknown variable, a value that is no text, or one over 8 MiB.
        """
        known = self.variables
        for given in values:
            if given not in known:
                raise TemplateError(
                    f'template "{self.name}" has no variable "{given}"{_nearest(given, known)}',
                    template=self.name,
                    variable=given,
                )
        for wanted in known:
            if wanted not in values:
                raise TemplateError(
                    f'template "{self.name}" needs a value for "{wanted}"', template=self.name, variable=wanted
                )
            self._check(wanted, values[wanted])
        return Rendered(
            tuple(Span(values[span.variable], span.variable) if span.variable else span for span in self.spans)
        )

    def _check(self, variable: str, value: object) -> None:
        if not isinstance(value, str):
            raise TemplateError(
                f'template "{self.name}": the value of "{variable}" must be text, not {type(value).__name__}',
                template=self.name,
                variable=variable,
            )
        if len(value) > VALUE_LIMIT_CHARACTERS:
            raise TemplateError(
                f'template "{self.name}": the value of "{variable}" is longer than {VALUE_LIMIT_CHARACTERS >> 20} MiB',
                template=self.name,
                variable=variable,
            )


def _bad_brace(name: str, source: str, offset: int, brace: str) -> TemplateError:
    line = source.count("\n", 0, offset) + 1
    if brace in ("{", "}"):
        said = f'a single "{brace}"; write "{brace * 2}" for a brace'
    else:
        said = f'"{brace}" is no placeholder; only {{name}} is, and braces are written {{{{ and }}}}'
    return TemplateError(f'template "{name}", line {line}: {said}', template=name, line=line)


def _nearest(given: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(given, known, n=1)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; it has {', '.join(known)}" if known else "; it has none"
