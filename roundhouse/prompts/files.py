"""Prompts as files: Markdown with a front matter of YAML, one file per wording.

    prompts/rag_query.md             the default wording, with the types of its variables
    prompts/rag_query.mistral.md     the wording for one family of models
    prompts/partials/rules.md        a text that others take in by {> rules}

A line `<!-- system -->`, `<!-- user -->` or `<!-- assistant -->` begins a turn; without one, all is one user turn. Only
plain YAML types are read, aliases are refused, and every size is bounded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from roundhouse.core.chat import Role, Sampling
from roundhouse.core.errors import TemplateError
from roundhouse.prompts.prompt import DEFAULT_VARIANT, Example, Prompt, Turn, Variant
from roundhouse.prompts.template import TEMPLATE_LIMIT_CHARACTERS, Template
from roundhouse.prompts.variables import Cut, Kind, Variable, nearest

__all__ = ["read_folder", "read_texts"]

_MOST_FILES = 2000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_FENCE = re.compile(r"---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.S | re.M)
_TURN = re.compile(r"^<!--[ \t]*(\w+)[ \t]*-->[ \t]*(?:\r?\n|\Z)", re.M)
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_AT = re.compile(r" - at `\$([^`]*)`")
ANSWER = "answer"


class _Sampling(msgspec.Struct, forbid_unknown_fields=True):
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


class _Variable(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["any", "text", "integer", "number", "boolean", "list"] = "text"
    description: str = ""
    default: str | int | float | bool | list[Any] | None = None
    choices: list[str | int | float | bool] = msgspec.field(name="enum", default_factory=list)
    cut: Literal["nothing", "start", "end", "paragraphs"] = "nothing"
    max_characters: Annotated[int, msgspec.Meta(ge=1)] = 8 << 20


class _Front(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    model_type: str = ""
    description: str = ""
    variables: dict[str, _Variable | str] = msgspec.field(default_factory=dict)
    examples: list[dict[str, Any]] = msgspec.field(default_factory=list)
    sampling: _Sampling = msgspec.field(default_factory=_Sampling)


class _Loader(yaml.SafeLoader):
    """Plain types only; no key twice, for one would be lost, and no aliases, of which a few unfold to gigabytes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f'the key "{key.value}" stands here twice', key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, "aliases are not allowed here", mark)
        return super().compose_node(parent, index)


def read_folder(folder: Path) -> dict[str, Prompt]:
    """The prompts of `folder` by name. Raises `TemplateError` with file and line for the first thing that is wrong."""
    if not folder.is_dir():
        raise TemplateError(f"there is no folder of prompts at {folder}")
    files = _files(folder)
    if len(files) > _MOST_FILES:
        raise TemplateError(f"{folder} has more than {_MOST_FILES} prompts")
    partials = {path.stem: _read(path).removesuffix("\n") for path in _files(folder / "partials")}
    return read_texts({str(path): _read(path) for path in files}, partials)


def read_texts(texts: Mapping[str, str], partials: Mapping[str, str]) -> dict[str, Prompt]:
    """The prompts in files that were read already, by path."""
    found: dict[str, dict[str, tuple[_Front, Variant]]] = {}
    for path, text in texts.items():
        front, body, line = _parted(text, path)
        name, variant = _called(front, path)
        if variant in found.setdefault(name, {}):
            other = found[name][variant][1].source
            raise TemplateError(f'{path}: prompt "{name}" has that wording already, in {other}', template=name)
        found[name][variant] = (front, _variant(front, body, line, path, partials))
    return {name: _prompt(name, variants) for name, variants in found.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.md") if not path.is_dir())


def _read(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would be waited for, and a link that leads nowhere not be missed
            raise TemplateError(f"{path} is no file, or a link that leads to none")
        with path.open("rb") as file:
            data = file.read(4 * TEMPLATE_LIMIT_CHARACTERS + 1)
    except OSError as error:
        raise TemplateError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > 4 * TEMPLATE_LIMIT_CHARACTERS:
        raise TemplateError(f"{path} is larger than {TEMPLATE_LIMIT_CHARACTERS >> 8} KiB; that is no prompt")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TemplateError(f"{path}, line {line}: it is not UTF-8 text; save it as UTF-8", line=line) from error


def _parted(text: str, path: str) -> tuple[_Front, str, int]:
    """Front matter, body, and the line on which the body begins."""
    fenced = _FENCE.match(text)
    if fenced is None:
        if text.startswith("---\n"):
            raise TemplateError(f"{path}, line 1: the front matter is never closed; end it with a line ---", line=1)
        return _Front(), text, 1
    root: yaml.Node | None = None
    try:
        loader = _Loader(fenced[1])
        try:
            root = loader.get_single_node()
            values = loader.construct_document(root) if root is not None else {}
        finally:
            loader.dispose()
        front = msgspec.convert(values, _Front)
        _check_variables(front, path, root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 2 if error.problem_mark else 1
        raise TemplateError(f"{path}, line {line}: {error.problem}", line=line) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if not isinstance(error, msgspec.ValidationError):
            raise TemplateError(f"{path}, line 1: the front matter is not valid YAML: {error}", line=1) from error
        raise _bad_front(error, path, root) from error
    return front, text[fenced.end() :], fenced[0].count("\n") + 1


def _check_variables(front: _Front, path: str, root: yaml.Node | None) -> None:
    """Types and defaults, with the line of the one at fault."""
    for name, asked in front.variables.items():
        try:
            _declared(name, asked)
        except TemplateError as error:
            node = _below(_below(root, "variables"), name)
            line = node.start_mark.line + 2 if node is not None else 1
            raise TemplateError(f"{path}, line {line}: {error}", line=line, variable=name) from error


def _bad_front(error: msgspec.ValidationError, path: str, root: yaml.Node | None) -> TemplateError:
    """With the line of the key at fault, and the near name for one that is not known."""
    said, place = str(error), _AT.search(str(error))
    steps = re.findall(r"[^.\[\]]+", place[1]) if place else []
    said = said[: place.start()] if place else said
    node, above = root, ""
    if unknown := _UNKNOWN_FIELD.search(said):
        known = {"variables": _Variable, "sampling": _Sampling}.get(steps[0] if steps else "", _Front)
        said = f'unknown key "{unknown[1]}"{nearest(unknown[1], known.__struct_encode_fields__)}'
        steps.append(unknown[1])
    for step in steps:
        below = _below(node, step)
        if below is None:
            break
        node, above = below, f"{above}.{step}".lstrip(".")
    line = node.start_mark.line + 2 if node is not None else 1
    return TemplateError(f"{path}, line {line}: {above + ': ' if above else ''}{said}", line=line)


def _below(node: yaml.Node | None, step: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        values: list[yaml.Node] = [value for key, value in node.value if step in (key.value, "...")]
        return values[0] if len(values) == 1 or (values and step != "...") else None
    if isinstance(node, yaml.SequenceNode) and step.isdigit():
        items: list[yaml.Node] = node.value
        return items[int(step)]
    return None


def _called(front: _Front, path: str) -> tuple[str, str]:
    """Name and variant: `rag_query.qwen2.5.md` is `rag_query` for `qwen2.5`, unless the front matter says otherwise."""
    stem = Path(path).name.removesuffix(".md")
    name, _, variant = stem.partition(".")
    name, variant = front.name or name, front.model_type or variant or DEFAULT_VARIANT
    if not _NAME.match(name):
        raise TemplateError(f'{path}: "{name}" is no name for a prompt; use letters, digits, _ and -')
    return name, variant


def _variant(front: _Front, body: str, line: int, path: str, partials: Mapping[str, str]) -> Variant:
    turns = tuple(
        Turn(role, Template.parse(text, path, partials, line=at)) for role, text, at in _turns(body, line, path)
    )
    if not turns:
        raise TemplateError(f"{path}: there is no text below the front matter", template=path)
    if turns[-1].role != "user":
        raise TemplateError(f"{path}: the last turn must be the user's, who is answered", template=path)
    examples = tuple(
        _example(row, turns[-1].template, f"{path}: examples[{n}]") for n, row in enumerate(front.examples)
    )
    return Variant(turns, examples, Sampling(**msgspec.structs.asdict(front.sampling)), path)


def _turns(body: str, line: int, path: str) -> list[tuple[Role, str, int]]:
    """Role, text without the blank lines around it, and its first line."""
    marks = [mark for mark in _TURN.finditer(body) if _is_role(mark[1], path, line + body.count("\n", 0, mark.start()))]
    if marks and body[: marks[0].start()].strip():
        raise TemplateError(f"{path}, line {line}: there is text before the first turn", line=line)
    edges = [(mark[1].lower(), mark.end()) for mark in marks] or [("user", 0)]
    ends = [mark.start() for mark in marks[1:]] + [len(body)]
    found: list[tuple[Role, str, int]] = []
    for (role, start), end in zip(edges, ends, strict=True):
        text = body[start:end].rstrip("\n")
        start += len(text) - len(text.lstrip("\n"))
        if text.strip("\n"):
            found.append((role, text.lstrip("\n"), line + body.count("\n", 0, start)))  # type: ignore[arg-type]
    return found


def _is_role(word: str, path: str, line: int) -> bool:
    """Another word is a comment, unless it is nearly a role."""
    if word.lower() in _ROLES:
        return True
    if near := difflib.get_close_matches(word.lower(), _ROLES, n=1, cutoff=0.75):
        raise TemplateError(f'{path}, line {line}: "{word}" is no role; did you mean "{near[0]}"?', line=line)
    return False


def _example(row: Mapping[str, Any], template: Template, place: str) -> Example:
    if not isinstance(row.get(ANSWER), str):
        raise TemplateError(f'{place}: it needs an "{ANSWER}", which is text', template=template.name)
    known = template.variables
    for given in row:
        if given not in (*known, ANSWER):
            said = f'{place}: the last turn has no variable "{given}"{nearest(given, known)}'
            raise TemplateError(said, template=template.name, variable=given)
    texts = {name: Variable(name).text_of(value, place) for name, value in row.items() if name != ANSWER}
    return Example(texts, row[ANSWER])


def _prompt(name: str, variants: Mapping[str, tuple[_Front, Variant]]) -> Prompt:
    """Types and description stand in the default file; a variant's own add to them."""
    first = variants.get(DEFAULT_VARIANT, next(iter(variants.values())))[0]
    declared = {
        key: _declared(key, one)
        for front in [*(front for front, _ in variants.values()), first]
        for key, one in front.variables.items()
    }
    used = {variable for _, variant in variants.values() for variable in variant.variables}
    for key in declared:
        if key not in used:
            where = next(variant.source for front, variant in variants.values() if key in front.variables)
            said = f'{where}: no wording of "{name}" has the variable "{key}" that is declared{nearest(key, used)}'
            raise TemplateError(said, template=name, variable=key)
    return Prompt(name, {key: variant for key, (_, variant) in variants.items()}, declared, first.description)


def _declared(name: str, asked: _Variable | str) -> Variable:
    if isinstance(asked, str):
        kinds = [kind.value for kind in Kind]
        if asked not in kinds:
            said = f'variable "{name}": "{asked}" is no type{nearest(asked, kinds)}'
            raise TemplateError(said, variable=name)
        return Variable(name, Kind(asked))
    variable = Variable(
        name,
        Kind(asked.type),
        asked.description,
        asked.default,
        tuple(str(one).lower() if isinstance(one, bool) else str(one) for one in asked.choices),
        Cut(asked.cut),
        asked.max_characters,
    )
    if asked.default is not None:
        try:
            variable.text_of(asked.default, "")
        except TemplateError as error:
            raise TemplateError(f"its default: {str(error).partition(': ')[2]}", variable=name) from error
    return variable
