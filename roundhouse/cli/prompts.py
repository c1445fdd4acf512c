"""`roundhouse prompts`: what is there, what a model gets of it, what changed, and where a label points."""

from __future__ import annotations

import asyncio
import difflib
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs

from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of, tell
from roundhouse.config import Settings
from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import ConfigError, Error, InvalidRequest, TemplateError
from roundhouse.gateway import Gateway
from roundhouse.gateway.keeping import address_of, prompts_folder
from roundhouse.gateway.labels import current_catalog
from roundhouse.gateway.parity import FIXTURE, Parity, compared
from roundhouse.gateway.plain import labels_told, prompt_told, read_told
from roundhouse.gateway.wordings import Read, folder_of, with_prompt
from roundhouse.prompts.catalog import Catalog
from roundhouse.prompts.families import DEFAULT, FAMILIES, fit_roles
from roundhouse.prompts.prompt import Prepared, Prompt
from roundhouse.prompts.shelf import move_label
from roundhouse.prompts.table import PromptTable

__all__ = ["app"]

app = typer.Typer(help="Look at prompts, render them, compare versions, move labels.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="A name, name@label, name@version, or name_family.")]
VarOption = Annotated[
    list[str] | None, typer.Option("--var", help="A variable as name=text, or name=@file. Repeatable.")
]


@app.command("list")
def show_all(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Print every prompt with its version, labels, wordings and variables."""
    catalog = current_catalog(settings_of(config))
    rows = [_row(catalog, prompt) for prompt in sorted(catalog, key=lambda one: one.name)]
    if as_json:
        print_json({"prompts": rows})
        return
    for row in rows:
        labels = "".join(f" {label}={version}" for label, version in row["labels"].items())
        variables, variants = ", ".join(row["variables"]), ", ".join(row["variants"])
        print(f"{row['name']} {row['version']}{labels}  ({variables})  for {variants}")


def _row(catalog: Catalog, prompt: Prompt) -> dict[str, Any]:
    return {
        "name": prompt.name,
        "version": prompt.version,
        "labels": labels_told(catalog, prompt),
        "description": prompt.description,
        "variants": sorted(prompt.variants),
        "variables": list(prompt.variables),
    }


@app.command()
def show(name: NameArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Print a prompt: its variables and every wording as it was written."""
    prompt = current_catalog(settings_of(config)).find(name)
    if as_json:
        print_json(prompt_told(prompt))
    else:
        print(_text_of(prompt))


@app.command()
def render(
    name: NameArgument,
    var: VarOption = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Route or target: its own chat template and tokenizer are asked.")
    ] = "",
    family: Annotated[str, typer.Option(help="The wording for a family of models; nothing is asked.")] = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Print the very text that a model gets; with --model also its tokens, as that backend counts them.

    Exit code 1 for a variable that is missing, unknown or ill-typed.
    """
    settings = settings_of(config)
    catalog = current_catalog(settings)
    request = with_prompt(catalog, name, _values(catalog.find(name), var or []), ChatRequest((), model=model))
    read = asyncio.run(_read(Gateway(settings), request)) if model else _read_offline(request, family)
    if as_json:
        print_json({"prompt": name, **read_told(read)})
        return
    if read.tokens is not None and read.tokens.text:
        print(read.tokens.text)
    else:
        print("\n\n".join(f"<!-- {message.role} -->\n{message.content}" for message in read.messages))
    for note in read.notes:
        tell(f"note: {note}")
    tell(_summary(read))


@app.command()
def diff(old: NameArgument, new: NameArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Print what differs between two prompts or versions; exit code 1 if anything does, 2 for a prompt there is not."""
    catalog = current_catalog(settings_of(config))
    try:
        one, other = catalog.find(old), catalog.find(new)
    except TemplateError as error:
        tell(f"roundhouse: {error}")
        sys.exit(2)
    lines = list(
        difflib.unified_diff(
            _text_of(one).splitlines(),
            _text_of(other).splitlines(),
            f"{old} {one.version}",
            f"{new} {other.version}",
            lineterm="",
        )
    )
    if as_json:
        print_json({"old": one.version, "new": other.version, "same": not lines, "diff": lines})
    elif lines:
        print("\n".join(lines))
    sys.exit(1 if lines else 0)


@app.command()
def label(
    name: Annotated[str, typer.Argument(help="A prompt of the folder.")],
    label: Annotated[str, typer.Argument(help="Such as production or staging.")],
    version: Annotated[str, typer.Option(help="A kept version; default: what the prompt is now.")] = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Let a label stand for a version, which is kept from then on; move it back the same way."""
    settings = settings_of(config)
    folder, address = _folder(settings), address_of(settings)
    if address is None:
        before, now = move_label(folder, name, label, version)
    else:
        with closing(PromptTable(address)) as table:
            before, now = table.move_label(folder, prompts_folder(address), name, label, version)
    if as_json:
        print_json({"prompt": name, "label": label, "before": before, "now": now})
    else:
        print(f"{name}@{label}: {before or 'new'} → {now}")


@app.command()
def parity(
    targets: Annotated[list[str] | None, typer.Argument(help="Targets; default: all.")] = None,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Compare this prompt, not the built-in fixture.")] = "",
    var: VarOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Have every target's own chat template read one conversation, and compare the tokens within each family.

    Engines are started where they must be. Exit code 1 if two that should agree do not.
    """
    settings = settings_of(config)
    request = FIXTURE
    if prompt:
        catalog = current_catalog(settings)
        request = with_prompt(catalog, prompt, _values(catalog.find(prompt), var or []), ChatRequest(()))
    names = targets or [target.name for target in settings.targets]
    found = asyncio.run(_parity(Gateway(settings), names, request))
    if as_json:
        print_json({"holds": found.holds, "targets": [verdict.as_dict() for verdict in found.verdicts]})
    else:
        for one in found.verdicts:
            print(f"{one.target}: {one.family or 'unknown'}, {one.tokens} tokens, {one.said}")
    sys.exit(0 if found.holds else 1)


async def _parity(gateway: Gateway, names: list[str], request: ChatRequest) -> Parity:
    reads: dict[str, Read | Error] = {}
    async with gateway:
        for name in names or [target for route in gateway.names().values() for target in route]:
            try:
                reads[name] = await gateway.read(structs.replace(request, model=name))
            except Error as error:
                reads[name] = error
    return compared(reads)


async def _read(gateway: Gateway, request: ChatRequest) -> Read:
    async with gateway:
        for notice in gateway.notices:
            tell(f"note: {notice}")
        return await gateway.read(request)


def _read_offline(request: ChatRequest, family: str) -> Read:
    known = {one.name: one for one in (*FAMILIES, DEFAULT)}
    if family and family not in known:
        near = difflib.get_close_matches(family, known, n=1)
        said = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise InvalidRequest(f'there is no family "{family}"; {said}', param="family")
    one = known[family or DEFAULT.name]
    assert isinstance(request.wording, Prepared)
    wording = request.wording.word(request, one.name, ())
    return Read("", "", one.name, wording.variant, fit_roles(wording.request.messages, one), wording.notes)


def _values(prompt: Prompt, given: list[str]) -> dict[str, Any]:
    """Values by the types of the prompt's variables; a file's text for `name=@file`."""
    values: dict[str, Any] = {}
    for one in given:
        name, found, text = one.partition("=")
        if not found:
            raise typer.BadParameter(f"--var {one}: write name=text, or name=@file")
        if text.startswith("@"):
            text = _file_text(text[1:])
        variable = prompt.variables.get(name)
        values[name] = variable.read(text) if variable else text
    return values


def _file_text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError as error:
        raise InvalidRequest(f"{name}: there is no such file", param="var") from error
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidRequest(f"{name} cannot be read: {said}", param="var") from error


def _folder(settings: Settings) -> Path:
    folder = folder_of(settings)
    if folder is None:
        said = "labels belong to a folder of prompts; name one in the configuration: llm: {prompts: prompts}"
        raise ConfigError(said, source=settings.source)
    return folder


def _summary(read: Read) -> str:
    count = f"{len(read.tokens.ids)} tokens" if read.tokens else "tokens not counted; name a --model"
    where = f"{read.target} · {read.model} · " if read.target else ""
    return f"[{where}family {read.family} · wording {read.variant or 'none'} · {count}]"


def _text_of(prompt: Prompt) -> str:
    """A prompt as lines for people, the same for the same version."""
    described = prompt_told(prompt)
    lines = [f"{prompt.name}: {prompt.description}" if prompt.description else prompt.name]
    for one in described["variables"]:
        told = [one["type"], "required" if one["required"] else f"default {one['default']!r}"]
        told += [f"one of {', '.join(one['enum'])}"] if one["enum"] else []
        told += [f"cut {one['cut']}"] if one["cut"] != "nothing" else []
        lines.append(f"  {one['name']}: {', '.join(told)}")
    for name, variant in sorted(described["variants"].items()):
        lines += ["", f"=== {name}", *_variant_lines(variant)]
    return "\n".join(lines)


def _variant_lines(variant: Mapping[str, Any]) -> list[str]:
    lines = [f"sampling: {variant['sampling']}"] if variant["sampling"] else []
    lines += [f"example: {example}" for example in variant["examples"]]
    for turn in variant["turns"]:
        lines += [f"<!-- {turn['role']} -->", *turn["text"].splitlines()]
    return lines
