"""The house behind one door: built from settings, it resolves names, renders prompts and answers."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from roundhouse.config import Settings
from roundhouse.core.chat import Answer, ChatRequest, collect
from roundhouse.core.errors import ContextTooLong, InvalidRequest, ModelNotFound, TemplateError
from roundhouse.core.report import Report
from roundhouse.gateway.build import build_targets, notices
from roundhouse.gateway.defaults import with_default_route
from roundhouse.prompts.builtin import BUILTIN
from roundhouse.prompts.fit import Fitted, fit
from roundhouse.prompts.template import Template
from roundhouse.providers.base import CountsTokens, LLMProvider
from roundhouse.routing.manager import Manager, Reply
from roundhouse.routing.run import Policy, Tiers

__all__ = ["Gateway", "Reported"]

DEFAULT_ROUTE = "default"
# Tokens left free for the answer when a document is fitted into a window and no max_tokens says otherwise.
_ANSWER_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Reported:
    """An answer and how it came about."""

    answer: Answer
    report: Report


class Gateway:
    """Use as an async context manager; all calls belong to the event loop that entered it.

    Engines start when they are first needed. Raises `ConfigError` on building from settings that cannot be served.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._manager: Manager | None = None
        self._templates = _templates(settings)
        self._tiers: Mapping[str, Tiers] = {}

    async def __aenter__(self) -> Gateway:
        if self._manager is None:
            self._settings = await with_default_route(self._settings)
            limits = self._settings.limits
            policy = Policy(
                total_s=limits.total_s, queue=limits.queue, attempts=limits.attempts, hedge_s=limits.hedge_s
            )
            self._manager = Manager(build_targets(self._settings), policy)
            self._tiers = _tiers(self._settings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what was started."""
        manager, self._manager = self._manager, None
        if manager is not None:
            await manager.aclose()

    @property
    def notices(self) -> list[str]:
        """What a user should know before the first answer, such as that a demo model gives it."""
        return notices(self._settings)

    def names(self) -> Mapping[str, tuple[str, ...]]:
        """Every name that a request may put into `model`, with the targets behind it in order."""
        return {name: tuple(one for tier in tiers for one in tier) for name, tiers in self._tiers.items()}

    def decisions(self, request_id: str) -> Report | None:
        """What was decided for one of the last requests, and why."""
        return self._open_manager.decisions(request_id)

    def state(self) -> Mapping[str, Any]:
        """Every replica as it stands, and how many requests run and wait."""
        return self._open_manager.state()

    def stream(self, request: ChatRequest) -> Reply:
        """The answer as it comes. Raises `ModelNotFound` for an unknown name; other errors come from the stream."""
        if not request.messages:
            raise InvalidRequest("there are no messages; send at least one", param="messages")
        candidates = self._candidates(request.model)
        report = Report(request_id=uuid.uuid4().hex, route=request.model or DEFAULT_ROUTE)
        return self._open_manager.stream(request, candidates, report)

    async def generate(self, request: ChatRequest) -> Reported:
        """The whole answer."""
        reply = self.stream(request)
        async with aclosing(reply.chunks) as chunks:
            answer = collect([chunk async for chunk in chunks])
        return Reported(answer, reply.report)

    async def client(self, model: str = "") -> LLMProvider:
        """The client of the first candidate of `model` that can be made ready, for what is no chat."""
        _, client = await self._open_manager.reach(self._candidates(model))
        return client

    def template(self, name: str) -> Template:
        """A prompt by name: the configuration's own, else one that comes with the house."""
        try:
            return self._templates[name]
        except KeyError:
            known = ", ".join(sorted(self._templates))
            raise TemplateError(f'there is no prompt "{name}"; there are {known}', template=name) from None

    async def question(self, question: str, document: str, *, prompt: str, model: str = "") -> tuple[ChatRequest, str]:
        """A request that asks `question` about `document`, cut to the window by whole paragraphs if need be.

        Returns the request and what was cut, in words; empty = nothing. Raises `InvalidRequest` for an empty question.
        """
        if not question.strip():
            raise InvalidRequest("the question is empty; ask something", param="question")
        if not document:
            return ChatRequest.of(question, model=model), ""
        template = self.template(prompt)
        if unknown := set(template.variables) - {"question", "context"}:
            name = sorted(unknown)[0]
            raise TemplateError(
                f'prompt "{prompt}" wants "{name}", which a question does not have; it may use question and context',
                template=prompt,
                variable=name,
            )

        def request_with(context: str) -> ChatRequest:
            values = {"question": question, "context": context}
            text = template.render({name: values[name] for name in template.variables}).text
            return ChatRequest.of(text, model=model)

        fitted = await self._fit(document, question, model, request_with)
        cut = f"of {fitted.total} paragraphs, the {fitted.kept} closest to the question fit its window"
        return request_with(fitted.text), cut if fitted.cut else ""

    async def _fit(
        self, document: str, question: str, model: str, request_with: Callable[[str], ChatRequest]
    ) -> Fitted:
        """Fitted to the first candidate's window, if that backend can count tokens; else left whole."""
        target, client = await self._open_manager.reach(self._candidates(model))
        if not isinstance(client, CountsTokens):
            return Fitted(document, 1, 1)
        window = await client.awindow_tokens()
        reserve = min(target.sampling.max_tokens or _ANSWER_TOKENS, window // 4)

        async def count(context: str) -> int:
            return await client.acount_tokens(request_with(context))

        fitted = await fit(document, question, window - reserve, count)
        if not fitted.kept:
            raise ContextTooLong(
                f"not even one paragraph of the document fits the window of {window} tokens beside the question; "
                "use a target with a larger n_ctx",
                limit_tokens=window,
                target=target.name,
            )
        return fitted

    @property
    def _open_manager(self) -> Manager:
        if self._manager is None:
            raise RuntimeError("the gateway is not open; use it as `async with Gateway(...)`")
        return self._manager

    def _candidates(self, name: str) -> Tiers:
        names = self._tiers
        found = names.get(name or DEFAULT_ROUTE)
        if found is None:
            near = difflib.get_close_matches(name, names, n=1)
            said = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise ModelNotFound(f'there is no route or target "{name}"; {said}', model=name, known=tuple(names))
        return found


def _templates(settings: Settings) -> Mapping[str, Template]:
    sources = {**BUILTIN, **settings.prompt_templates}
    return {name: Template.parse(source, name) for name, source in sources.items()}


def _tiers(settings: Settings) -> Mapping[str, Tiers]:
    """Every route and every target by name; `a|b` in a route are equals."""
    routes = {name: tuple(tuple(entry.split("|")) for entry in entries) for name, entries in settings.routes.items()}
    return {**routes, **{target.name: ((target.name,),) for target in settings.targets}}
