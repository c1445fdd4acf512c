"""Templates with `{name}` placeholders: parsed once, versioned by content, rendered as data.

`{{` and `}}` stand for braces, `{> name}` for a partial. Nothing else may stand in braces: no attribute, index,
conversion or format spec, so a template cannot reach into a value, and a value is never read as a template.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from roundhouse.core.errors import TemplateError
from roundhouse.prompts.variables import Variable, checked, nearest

__all__ = ["Rendered", "Span", "Template"]

TEMPLATE_LIMIT_CHARACTERS = 256 << 10
_DEEPEST_PARTIAL = 8
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|\{|\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PARTIAL = re.compile(r">\s*([A-Za-z_][A-Za-z0-9_-]*)\s*\Z")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text; `variable` names the value it came from, empty = the template's own words.

    `partial` names the partial that it stands in, empty = the template itself.
    """

    text: str
    variable: str = ""
    partial: str = ""


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
    def parse(
        cls, source: str, name: str = "template", partials: Mapping[str, str] | None = None, *, line: int = 1
    ) -> Template:
        """`line` is where the source begins in its file.

        Raises `TemplateError` with the line, if `source` is too long, names an unknown partial or itself, or something
        else stands in braces.
        """
        reader = _Reader(name, partials or {})
        reader.read(source, name, line, ())
        return cls(name, source, reader.spans())

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the placeholders, in order of first use."""
        return tuple(dict.fromkeys(span.variable for span in self.spans if span.variable))

    @property
    def version(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the source, partials put in."""
        whole = "".join(f"\0{span.variable}\0" if span.variable else span.text for span in self.spans)
        return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def render(self, values: Mapping[str, object]) -> Rendered:
        """The template with `values` in place.

        Raises `TemplateError` for a missing or unknown variable, a value that is no text or number, or one over 8 MiB.
        """
        return self.filled(checked(self.name, {name: Variable(name) for name in self.variables}, values))

    def filled(self, texts: Mapping[str, str]) -> Rendered:
        """The template with texts in place that were checked before."""
        return Rendered(
            tuple(
                Span(texts[span.variable], span.variable, span.partial) if span.variable else span
                for span in self.spans
            )
        )


class _Reader:
    """Reads a source and the partials in it into spans; what is read in all is bounded."""

    def __init__(self, name: str, partials: Mapping[str, str]) -> None:
        self._name = name
        self._partials = partials
        self._spans: list[Span] = []
        self._read_characters = 0

    def spans(self) -> tuple[Span, ...]:
        """Literal neighbours of one origin joined."""
        joined: list[Span] = []
        for span in self._spans:
            last = joined[-1] if joined else None
            if last and not span.variable and not last.variable and last.partial == span.partial:
                joined[-1] = Span(last.text + span.text, "", span.partial)
            elif span.text or span.variable:
                joined.append(span)
        return tuple(joined)

    def read(self, source: str, name: str, line: int, inside: tuple[str, ...]) -> None:
        self._read_characters += len(source)
        if self._read_characters > TEMPLATE_LIMIT_CHARACTERS:
            limit = f"{TEMPLATE_LIMIT_CHARACTERS >> 10} KiB"
            raise TemplateError(f'template "{self._name}" is longer than {limit}', template=self._name)
        partial = inside[-1] if inside else ""
        end = 0
        for found in _TOKEN.finditer(source):
            self._spans.append(Span(source[end : found.start()], "", partial))
            end = found.end()
            token, content = found.group(), found.group(1)
            at = line + source.count("\n", 0, found.start())
            if token in ("{{", "}}"):
                self._spans.append(Span(token[0], "", partial))
            elif content is not None and _NAME.match(content):
                self._spans.append(Span("", content, partial))
            elif content is not None and (named := _PARTIAL.match(content)):
                self._include(named[1], name, at, inside)
            else:
                raise _bad_brace(name, at, token)
        self._spans.append(Span(source[end:], "", partial))

    def _include(self, partial: str, name: str, line: int, inside: tuple[str, ...]) -> None:
        if partial not in self._partials:
            near = nearest(partial, self._partials) if self._partials else f"; put it into partials/{partial}.md"
            said = f'template "{name}", line {line}: there is no partial "{partial}"{near}'
            raise TemplateError(said, template=name, line=line)
        if partial in inside or len(inside) >= _DEEPEST_PARTIAL:
            chain = " > ".join((*inside, partial))
            raise TemplateError(
                f'template "{name}", line {line}: the partials contain each other, or too deep: {chain}',
                template=name,
                line=line,
            )
        self.read(self._partials[partial], f"partial {partial}", 1, (*inside, partial))


def _bad_brace(name: str, line: int, brace: str) -> TemplateError:
    if brace in ("{", "}"):
        said = f'a single "{brace}"; write "{brace * 2}" for a brace'
    else:
        shown = brace if len(brace) <= 60 else brace[:57] + "..."
        said = f'"{shown}" is no placeholder; only {{name}} is, and braces are written {{{{ and }}}}'
    return TemplateError(f'template "{name}", line {line}: {said}', template=name, line=line)
