"""The prompts of a house: those that come with it, the user's folder, the configuration; fitted into a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from roundhouse.config import Settings
from roundhouse.core.chat import ChatRequest, Message
from roundhouse.core.errors import ContextTooLong
from roundhouse.gateway.keeping import address_of, prompts_folder
from roundhouse.prompts.builtin import builtin
from roundhouse.prompts.catalog import Catalog, from_texts
from roundhouse.prompts.families import DEFAULT
from roundhouse.prompts.fit import Fitted, fit, trim
from roundhouse.prompts.prompt import Prepared
from roundhouse.prompts.shelf import open_shelf
from roundhouse.prompts.variables import Cut, Variable
from roundhouse.providers.base import CountsTokens, LLMProvider, PromptTokens, TellsTokens
from roundhouse.routing.target import Target

__all__ = ["Read", "catalog_of", "folder_of", "read_by", "with_prompt", "within_window"]

# Tokens left free for the answer when a value is fitted into a window and no max_tokens says otherwise.
_ANSWER_TOKENS = 512
# What a chat template may add around a prompt's turns; a prompt that fits beside it is not counted.
_FORM_TOKENS = 256
# A window does not change while its engine runs.
_WINDOWS: WeakKeyDictionary[LLMProvider, int] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Read:
    """What the model of `target` would read of a request. `tokens` None = its backend does not say."""

    target: str
    model: str
    family: str
    variant: str
    messages: tuple[Message, ...]
    notes: tuple[str, ...] = ()
    tokens: PromptTokens | None = None


def folder_of(settings: Settings) -> Path | None:
    """The user's folder of prompts; a relative one lies beside the configuration file."""
    if not settings.prompts:
        return None
    source = Path(settings.source)
    return (source.parent if source.is_file() else Path()) / settings.prompts


def catalog_of(settings: Settings) -> Catalog:
    """All prompts, with the labels that servers share as they were known last.

    Raises `TemplateError` with file and line for the first that is wrong.
    """
    folder = folder_of(settings)
    earlier = open_shelf(folder).over(builtin()) if folder else builtin()
    address = address_of(settings)
    if folder and address and (shared := prompts_folder(address)).is_dir():
        earlier = open_shelf(shared).over(earlier)
    return from_texts(settings.prompt_templates, settings.source, earlier)


def with_prompt(catalog: Catalog, name: str, values: Mapping[str, Any], request: ChatRequest) -> ChatRequest:
    """`request` with a prompt before its own messages. Raises `TemplateError` for what is wrong with its variables."""
    return replace(request, wording=catalog.find(name).prepare(values))


async def read_by(target: Target, client: LLMProvider, request: ChatRequest) -> Read:
    """`request` as the model of `target` would read it; nothing is generated."""
    await target.learn(client)
    worded = target.worded(request)
    fitted = target.fitted(worded.request, client)
    tokens = await client.atokens(fitted) if isinstance(client, TellsTokens) else None
    family = target.family.name if target.family else DEFAULT.name
    return Read(target.name, target.model, family, worded.variant, fitted.messages, worded.notes, tokens)


async def within_window(
    prepared: Prepared, request: ChatRequest, target: Target, client: LLMProvider
) -> tuple[Prepared, tuple[str, ...]]:
    """`prepared` with its cuttable values cut to the window of `target`, if its backend can count tokens.

    Gives what was cut in words. Raises `ContextTooLong` if it does not fit when all that may go is gone.
    """
    if not isinstance(client, CountsTokens) or not prepared.cuttable:
        return prepared, ()
    await target.learn(client)
    window = _WINDOWS.get(client) or await client.awindow_tokens()
    _WINDOWS[client] = window
    asked = request.sampling.max_tokens or target.sampling.max_tokens or _ANSWER_TOKENS
    budget = window - min(asked, window // 4)
    # No tokenizer makes more tokens of a text than it has bytes, and of special tokens in values a byte more each.
    family = (target.family or DEFAULT).name
    if 2 * prepared.size_bytes(family, target.name, target.model) <= budget - _FORM_TOKENS:
        return prepared, ()
    counter: CountsTokens = client

    async def count(candidate: Prepared) -> int:
        worded = target.worded(replace(request, wording=candidate)).request
        return await counter.acount_tokens(target.fitted(worded, client))

    notes: list[str] = []
    for variable in prepared.cuttable:
        fitted = await _fitted(prepared, variable, budget, count)
        if fitted.text == prepared.texts[variable.name]:
            return prepared, tuple(notes)
        prepared = prepared.with_text(variable.name, fitted.text)
        if fitted.kept:
            return prepared, (*notes, _said(variable, fitted))
    name = prepared.cuttable[-1].name
    raise ContextTooLong(
        f'not even one paragraph of "{name}" fits the window of {window} tokens beside the rest; '
        "use a target with a larger n_ctx",
        limit_tokens=window,
        target=target.name,
    )


async def _fitted(prepared: Prepared, variable: Variable, budget: int, count: Any) -> Fitted:
    text = prepared.texts[variable.name]

    async def counted(candidate: str) -> int:
        tokens: int = await count(prepared.with_text(variable.name, candidate))
        return tokens

    if variable.cut is Cut.PARAGRAPHS:
        rest = " ".join(value for name, value in prepared.texts.items() if name != variable.name)
        return await fit(text, rest, budget, counted)
    return await trim(text, budget, counted, from_start=variable.cut is Cut.START)


def _said(variable: Variable, fitted: Fitted) -> str:
    if variable.cut is Cut.PARAGRAPHS:
        return f"of {fitted.total} paragraphs, the {fitted.kept} closest to the question fit its window"
    side = "start" if variable.cut is Cut.START else "end"
    return f'{fitted.total - fitted.kept} of {fitted.total} characters were cut from the {side} of "{variable.name}"'
