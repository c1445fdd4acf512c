"""The house behind one door: built from settings, it resolves names, renders prompts and answers."""

from __future__ import annotations

import asyncio
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from msgspec import structs

from roundhouse.config import Settings
from roundhouse.core.chat import Answer, ChatRequest, collect
from roundhouse.core.errors import ConfigError, Error, InvalidRequest, ModelNotFound, TemplateError, Unsupported
from roundhouse.core.report import Report, new_id
from roundhouse.experiments.store import Run
from roundhouse.gateway.build import notices
from roundhouse.gateway.cards import Card, Cards
from roundhouse.gateway.defaults import with_default_route
from roundhouse.gateway.drift import Drifts
from roundhouse.gateway.embeddings import Vectors
from roundhouse.gateway.following import Following
from roundhouse.gateway.hosting import Hosting
from roundhouse.gateway.house import House
from roundhouse.gateway.keeping import address_of, routes_file
from roundhouse.gateway.labels import Labels
from roundhouse.gateway.laboratory import Laboratory
from roundhouse.gateway.observers import Observers
from roundhouse.gateway.reload import Reloaded
from roundhouse.gateway.spoken import overheard
from roundhouse.gateway.trials import Caller
from roundhouse.gateway.wordings import Read, catalog_of, read_by, with_prompt, within_window
from roundhouse.prompts.catalog import Catalog
from roundhouse.prompts.prompt import Prepared
from roundhouse.providers.base import CountsTokens, LLMProvider, Pulls
from roundhouse.routing.errand import Errand
from roundhouse.routing.manager import Manager, Reply
from roundhouse.routing.route import Route
from roundhouse.routing.switch import Order, Switch
from roundhouse.telemetry.events import Tell
from roundhouse.telemetry.log import Log
from roundhouse.telemetry.prometheus import Meter

__all__ = ["Gateway", "Reported"]

DEFAULT_ROUTE = "default"
_LONGEST_SHOWN = 100  # of a name that is not known: a megabyte of it helps nobody


@dataclass(frozen=True, slots=True)
class Reported:
    """An answer and how it came about."""

    answer: Answer
    report: Report


class Gateway:
    """Use as an async context manager; all calls belong to the event loop that entered it.

    Engines start when they are first needed. Raises `ConfigError` on building from settings that cannot be served.
    `reread` gives the settings as they are now, for `reload`. `keeps_history`: write what each request took to the
    file that the settings name. `exports`: tell a collector of OpenTelemetry of each request, if there is one.
    `watches`: warn of targets that become slower or worse. `keeps_routes`: a route leads where it was switched to
    before a restart, and where other servers that share the database switch it. `log` is told of each request.
    `hosting`: who runs the engines that are ours to run, None = this process.
    """

    def __init__(
        self,
        settings: Settings,
        reread: Callable[[], Settings] | None = None,
        *,
        keeps_history: bool = False,
        exports: bool = False,
        watches: bool = False,
        keeps_routes: bool = False,
        log: Log | None = None,
        hosting: Hosting | None = None,
    ) -> None:
        self._settings = settings
        self._hosting = hosting
        self._house: House | None = None
        self._cards = Cards(settings)
        self._reread = reread
        self._catalog = catalog_of(settings)
        self._laboratory = Laboratory(settings, self._catalog, self._first_target)
        self._observers = Observers(settings, history=keeps_history, exports=exports, watches=watches, log=log)
        self._following: Following | None = None
        self._labels: Labels | None = None
        self._keeps_routes = keeps_routes
        self.workers: Callable[[], list[dict[str, Any]]] | None = None
        self._prepare: list[Callable[[Settings], Callable[[], None]]] = []

    async def __aenter__(self) -> Gateway:
        if self._house is None:
            try:
                await self._open()
            except BaseException:  # nobody leaves what nobody has entered
                await self.aclose()
                raise
        return self

    async def _open(self) -> None:
        self._settings = await with_default_route(self._settings)
        self._following = await self._followed()
        listeners = self._observers.open(self._settings)
        tiers = None if self._following is None else self._following.tiers
        self._house = House(self._settings, *listeners, tiers=tiers, hosting=self._hosting)
        self._observers.join(self._house)
        if self._following is not None:
            self._following.join(self._house.manager)
            self._house.meter.registry.register(self._following)
        self._cards = Cards(self._settings)
        address = address_of(self._settings)
        if address is not None and self._settings.prompts:
            self._labels = Labels(address, self._settings, self._relabel)
        await self._laboratory.open(self._settings)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what was started; each part is, even if another fails."""
        labels, self._labels = self._labels, None
        following, self._following = self._following, None
        async with AsyncExitStack() as parts:  # the last one first
            parts.push_async_callback(self._observers.aclose)
            parts.push_async_callback(self._close_house)
            if following is not None:
                parts.push_async_callback(following.aclose)
            parts.push_async_callback(self._observers.leave)
            parts.push_async_callback(self._laboratory.aclose)
            if labels is not None:
                parts.push_async_callback(labels.aclose)

    async def _close_house(self) -> None:
        house, self._house = self._house, None
        if house is not None:
            await house.aclose()

    @property
    def notices(self) -> list[str]:
        """What a user should know before the first answer, such as that a demo model gives it."""
        return [*notices(self._settings), *(self._following.notices() if self._following is not None else ())]

    def names(self) -> Mapping[str, tuple[str, ...]]:
        """Every name that a request may put into `model`, with the targets behind it in order."""
        return {name: route.targets for name, route in self._open_manager.routes.items()}

    def targets_of(self, name: str) -> tuple[str, ...]:
        """The targets behind a name, in order. Raises `ModelNotFound`."""
        return self._route(name).targets

    async def card(self, name: str) -> Card:
        """What can be told of a name. Raises `ModelNotFound`."""
        return await self._cards.of(name, self.targets_of(name))

    async def cards(self, wanted: Callable[[str], bool]) -> list[Card]:
        """The cards of all names that are `wanted`."""
        return [await self._cards.of(name, targets) for name, targets in self.names().items() if wanted(name)]

    async def puller(self, name: str) -> Pulls:
        """The client of a target, by its name or its model's, whose backend downloads models by itself.

        Raises `ModelNotFound` for a name that the configuration does not know, `Unsupported` for another backend.
        """
        named = next((one.name for one in self._settings.targets if one.model == name), name)
        async with self._open_manager.using(self._route(named)) as (_, client):
            if not isinstance(client, Pulls):
                raise Unsupported(f'"{name}" is not run by an Ollama, which alone downloads by itself', feature="pull")
            return client

    def decisions(self, request_id: str) -> Report | None:
        """What was decided for one of the last requests, and why."""
        return self._open_manager.decisions(request_id)

    def recent(self, count: int) -> list[Report]:
        """The last requests, the newest first."""
        return self._open_manager.recent(count)

    async def decided(self, request_id: str) -> Report | None:
        """As `decisions`, wherever in the house it was decided."""
        return self.decisions(request_id)

    async def latest(self, count: int, *, troubled: bool = False) -> list[Report]:
        """As `recent`, of the whole house; `troubled`: those that had trouble, of all that are remembered."""
        return self._own_latest(count, troubled=troubled)

    def _own_latest(self, count: int, *, troubled: bool) -> list[Report]:
        return [one for one in self.recent(sys.maxsize) if one.troubled][:count] if troubled else self.recent(count)

    async def scraped(self) -> bytes:
        """As `metrics`, of the whole house."""
        return self.metrics()

    def state(self) -> Mapping[str, Any]:
        """Every replica as it stands, how many requests run and wait, and the worker processes, if there are any."""
        state = self._open_manager.state()
        return state if self.workers is None else {**state, "workers": self.workers()}

    def listen(self, listener: Tell) -> None:
        """Have `listener` told of every event from now on. It must not block or raise."""
        self._open_house.listen(listener)

    def metrics(self) -> bytes:
        """Everything counted so far, in Prometheus' text format."""
        return self._open_house.meter.exposition()

    @property
    def meter(self) -> Meter:
        """The same numbers in short."""
        return self._open_house.meter

    def switch(self, route: str, target: str, order: Order | None = None) -> Switch:
        """Begin to have `target` serve `route` in place of its first targets, with no request lost (docs/switch.md).

        Raises `ModelNotFound` or `InvalidRequest`. What goes wrong later is said by the switch, and undone.
        """
        return self._open_manager.turntable.switch(route, target, order or Order())

    def switch_under(self, number: str) -> Switch | None:
        """One of the last switches, by its id."""
        return self._open_manager.turntable.switches.get(number)

    async def switched(self, route: str, target: str, order: Order, *, wait: bool = False) -> dict[str, Any]:
        """As `switch`, in plain values: how it stands now, or after `wait` in the end."""
        switch = self.switch(route, target, order)
        while wait and not switch.over:
            await switch.changed.wait()
        return switch.as_dict()

    async def switch_told(self, number: str) -> dict[str, Any] | None:
        """How one of the last switches stands, in plain values."""
        switch = self.switch_under(number)
        return None if switch is None else switch.as_dict()

    async def load(self, target: str) -> None:
        """Have a target's engines ready before anyone asks. Raises `ModelNotFound` and what keeps one from starting."""
        await self._open_manager.load(target)

    async def unload(self, target: str, limit_s: float | None = None) -> bool:
        """Stop a target's engines once they are idle; False if they stayed busy for `limit_s`."""
        return await self._open_manager.unload(target, limit_s)

    @property
    def drifts(self) -> Drifts | None:
        """Which targets have become slower or worse; None = this house does not watch them."""
        return self._observers.drifts

    def before_reload(self, prepare: Callable[[Settings], Callable[[], None]]) -> None:
        """For what else is built from settings: `prepare` is given the new ones before anything changes, and may raise
        `ConfigError`; what it returns is called when everything else has changed.
        """
        self._prepare.append(prepare)

    def reload(self) -> Reloaded:
        """Read the configuration again and serve by it. Raises `ConfigError`, and then nothing has changed."""
        if self._reread is None:
            raise InvalidRequest("this house was built from values, there is no file to read again", param="")
        new = self._reread()
        if not new.targets:
            raise ConfigError("the configuration has no targets any more", source=new.source)
        catalog = catalog_of(new)
        experiments = self._laboratory.prepared(new, catalog)
        prepared = [self._observers.prepare(new), *(prepare(new) for prepare in self._prepare)]
        done = self._open_house.reload(new)
        new = replace(new, state=self._settings.state)  # another database is gone to at the next start
        for apply in prepared:
            apply()
        self._cards = Cards(new)
        self._settings, self._catalog = new, catalog
        if self._labels is not None:
            self._labels.settings = new
        experiments()
        return done

    async def reloaded(self) -> dict[str, Any]:
        """As `reload`, in plain values."""
        return self.reload().as_dict()

    async def converse(
        self,
        request: ChatRequest,
        *,
        prompt: str = "",
        variables: Mapping[str, Any] | None = None,
        caller: Caller,
        errand: Errand | None = None,
    ) -> Reply:
        """As `stream`, for an outside caller: with a prompt by name, and in the arm of an experiment that concerns it.

        `errand`: of another process, which carries the attempts out. Raises what `prompted` and `within_window` raise.
        """
        request_id = new_id() if errand is None else errand.request_id
        values = dict(variables or {})
        if (trace := self._observers.begin(caller.headers)) is not None:
            request = structs.replace(request, trace=trace)
        enrolled = await self._laboratory.enrol(request, prompt, values, caller, request_id)
        if enrolled is not None:
            request = enrolled.request
            if enrolled.prompt != prompt:
                prompt = enrolled.prompt
                values = {name: value for name, value in values.items() if name in self._catalog.find(prompt).variables}
        cut: tuple[str, ...] = ()
        try:
            if prompt:
                request, cut = await self.within_window(self.prompted(prompt, values, request))
        except Error as error:
            self._laboratory.failed(enrolled, error)
            raise
        reply = self.stream(request, request_id, errand)
        reply.report.warnings += cut
        return self._laboratory.watch(reply, enrolled, values)

    async def feedback(self, request_id: str, metric: str, value: float) -> list[str]:
        """Tell what came of an answer; gives the experiments that it was in.

        Raises `InvalidRequest` if it was in none, unless the metric is one by which targets are watched.
        """
        watched = self.drifts is not None and self.drifts.feedback(request_id, metric, value)
        try:
            return await self._laboratory.feedback(request_id, metric, value)
        except InvalidRequest:
            if watched:
                return []
            raise

    async def experiments(self) -> list[dict[str, Any]]:
        """Every experiment of the configuration, and what its data allow to say, as plain values."""
        return await self._laboratory.all()

    async def begin_experiment(self, name: str) -> Run:
        """Begin it, or go on. Raises `InvalidRequest` for one that the configuration does not have."""
        return await self._laboratory.begin(name)

    async def end_experiment(self, name: str, promote: str, reason: str) -> Run:
        """Stop it, or give everybody the arm to `promote`. Raises `InvalidRequest` where that does not apply."""
        return await self._laboratory.end(name, promote, reason)

    async def course(self, experiment: str) -> list[dict[str, Any]]:
        """Its intervals at past times and now. Raises `InvalidRequest` for an unknown name."""
        return await self._laboratory.course(experiment)

    def stream(self, request: ChatRequest, request_id: str = "", errand: Errand | None = None) -> Reply:
        """The answer as it comes. Raises `ModelNotFound` for an unknown name; other errors come from the stream."""
        if not request.messages and request.wording is None:
            raise InvalidRequest("there are no messages; send at least one", param="messages")
        route = self._route(request.model)
        if request.trace is None and (trace := self._observers.begin()) is not None:
            request = structs.replace(request, trace=trace)
        reply = self._open_manager.stream(request, route, self._report(request, route, request_id), errand)
        tells = self._observers.of_texts
        return overheard(reply, request, tells) if tells else reply

    async def generate(self, request: ChatRequest) -> Reported:
        """The whole answer."""
        reply = self.stream(request)
        async with aclosing(reply.chunks) as chunks:
            answer = collect([chunk async for chunk in chunks])
        return Reported(answer, reply.report)

    async def generate_batch(self, requests: Sequence[ChatRequest], *, at_once: int = 0) -> list[Reported | Error]:
        """All answers in the order of the requests; one that fails is its error, and the others go on.

        At most `at_once` are under way at the same time; 0 = as many as may run and wait here.
        """
        gate = asyncio.Semaphore(at_once or max(1, self._settings.limits.queue // 2))

        async def one(request: ChatRequest) -> Reported | Error:
            async with gate:
                try:
                    return await self.generate(request)
                except Error as error:
                    return error

        return list(await asyncio.gather(*(one(request) for request in requests)))

    async def embed(
        self, texts: Sequence[str], model: str = "", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> Vectors:
        """One vector for each text; calls that come at the same time reach the backend as one.

        `headers`: of the caller, as ASGI has them, for the trace it may belong to.
        """
        if not texts:
            raise InvalidRequest("there are no texts; send at least one", param="input")
        return await self._open_house.embeddings.embed(self._route(model), texts, self._observers.begin(headers))

    def model_of(self, target: str) -> str:
        """The model of a target, as its backend calls it."""
        return self._open_manager.targets[target].model

    async def count_tokens(self, request: ChatRequest) -> int:
        """Prompt tokens of `request` in the model that would answer it. Raises `Unsupported` where nobody can count."""
        async with self._open_manager.using(self._route(request.model)) as (_, client):
            if not isinstance(client, CountsTokens):
                raise Unsupported("the backend of this model cannot count tokens", feature="count_tokens")
            return await client.acount_tokens(request)

    async def wake(self, model: str) -> None:
        """Make an engine of the first candidate of `model` ready, for whoever will ask it."""
        await self._open_manager.reach(self._route(model))

    async def client(self, model: str = "") -> LLMProvider:
        """The client of the first candidate of `model` that can be made ready, for what is no chat."""
        _, client = await self._open_manager.reach(self._route(model))
        return client

    @property
    def catalog(self) -> Catalog:
        """All prompts: those of the house, of the user's folder, of the configuration."""
        return self._catalog

    def prompted(self, name: str, variables: Mapping[str, Any], request: ChatRequest) -> ChatRequest:
        """`request` with a prompt before its own messages, worded by whichever target answers.

        Raises `TemplateError` for an unknown prompt or what is wrong with its variables.
        """
        return with_prompt(self._catalog, name, variables, request)

    async def within_window(self, request: ChatRequest) -> tuple[ChatRequest, tuple[str, ...]]:
        """`request` with the values of its prompt that may be cut fitted into the window of its first candidate.

        Gives what was cut, in words. Raises `ContextTooLong` if even that is too much.
        """
        if not isinstance(request.wording, Prepared):
            return request, ()
        target, client = await self._open_manager.reach(self._route(request.model))
        prepared, notes = await within_window(request.wording, request, target, client)
        return structs.replace(request, wording=prepared), notes

    async def read(self, request: ChatRequest) -> Read:
        """`request` as the first candidate of its model would read it, fitted into its window; nothing is generated."""
        request, cut = await self.within_window(request)
        read = await read_by(*await self._open_manager.reach(self._route(request.model)), request)
        return replace(read, notes=(*cut, *read.notes))

    async def question(self, question: str, document: str, *, prompt: str, model: str = "") -> tuple[ChatRequest, str]:
        """A request that asks `question` about `document`, cut to the window by whole paragraphs if need be.

        Returns the request and what was cut, in words; empty = nothing. Raises `InvalidRequest` for an empty question.
        """
        if not question.strip():
            raise InvalidRequest("the question is empty; ask something", param="question")
        if not document:
            return ChatRequest.of(question, model=model), ""
        found = self._catalog.find(prompt)
        values = {"question": question, "context": document}
        if unknown := [n for n, one in found.variables.items() if n not in values and one.default is None]:
            raise TemplateError(
                f'prompt "{prompt}" wants "{unknown[0]}", which a question does not have; it may use question and '
                "context",
                template=prompt,
                variable=unknown[0],
            )
        used = {name: value for name, value in values.items() if name in found.variables}
        request, notes = await self.within_window(self.prompted(prompt, used, ChatRequest((), model=model)))
        return request, "; ".join(notes)

    @property
    def _open_manager(self) -> Manager:
        return self._open_house.manager

    @property
    def _open_house(self) -> House:
        if self._house is None:
            raise RuntimeError("the gateway is not open; use it as `async with Gateway(...)`")
        return self._house

    def _relabel(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def _followed(self) -> Following | None:
        """Where routes lead, known as far as it can be."""
        if not self._keeps_routes:
            return None
        shared = address_of(self._settings)
        following = Following(self._settings, routes_file(self._settings), shared)
        await following.begin()
        return following

    def _first_target(self, route: str) -> tuple[str, str]:
        target = self._open_manager.targets[self._route(route).targets[0]]
        return target.name, target.model

    def _report(self, request: ChatRequest, route: Route, request_id: str) -> Report:
        report = Report(request_id=request_id or new_id(), route=route.name)
        if isinstance(request.wording, Prepared):
            report.prompt = f"{request.wording.prompt.name}@{request.wording.version}"
        return report

    def _route(self, name: str) -> Route:
        routes = self._open_manager.routes
        found = routes.get(name or DEFAULT_ROUTE)
        if found is None:
            near = difflib.get_close_matches(name, routes, n=1)
            said = f"did you mean {near[0]}?" if near else f"there are {', '.join(routes)}"
            shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."
            raise ModelNotFound(f'there is no route or target "{shown}"; {said}', model=shown, known=tuple(routes))
        return found
