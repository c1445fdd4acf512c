"""Experiments in a running house: who is in which arm, what came of it, and what follows by the rules."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import structs

from roundhouse.config import Settings
from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Sampling
from roundhouse.core.errors import ConfigError, Error, InvalidRequest, StoreError, TemplateError
from roundhouse.database import Place, Unavailable
from roundhouse.database.journal import Journal
from roundhouse.experiments.design import (
    AUTOMATIC,
    Allocation,
    Arm,
    Assigned,
    Experiment,
    Goal,
    assign,
    exposure_id,
    unit_id,
)
from roundhouse.experiments.recorder import Recorder
from roundhouse.experiments.store import Exposure, Outcome, Run, State, Store
from roundhouse.gateway.judging import judge_all
from roundhouse.gateway.marking import Marking
from roundhouse.gateway.runs import Runs
from roundhouse.prompts.catalog import Catalog
from roundhouse.routing.manager import Reply
from roundhouse.scoring.scorers import NEED_RIGHT, Scored, find
from roundhouse.scoring.text import is_refusal

__all__ = ["CALLERS_OWN", "Caller", "Enrolled", "Trials", "designs_of"]

log = logging.getLogger(__name__)
# Mistakes of the caller, which say nothing about an arm.
CALLERS_OWN = (InvalidRequest, TemplateError)
_JOURNAL_BYTES = 256 << 20
_JUDGE_EVERY_S = 30.0
_WRITE_S = 5.0
_LARGEST_OUTCOME = 1e12


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `unit` as the body names it; `headers` as ASGI has them: names in lower case, both as bytes."""

    unit: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A request in an arm: what it asks for now, and what will be stored of it."""

    run: Run
    arm: Arm
    prompt: str
    request: ChatRequest
    exposure: Exposure


def designs_of(settings: Settings, catalog: Catalog) -> dict[str, Experiment]:
    """The experiments of a configuration. Raises `ConfigError` for one that cannot be run."""
    designs = {name: _design(name, given) for name, given in settings.experiments.items()}
    for design in designs.values():
        _check(design, settings, catalog)
    return designs


def _design(name: str, given: Mapping[str, Any]) -> Experiment:
    fields = {key: value for key, value in given.items() if key not in ("arms", "goal", "allocation")}
    fields["allocation"] = Allocation(given.get("allocation", "fixed"))
    fields["scorers"] = tuple(given.get("scorers", ()))
    arms = []
    for arm, asked in given.get("arms", {}).items():
        settings = {key: tuple(value) if key == "stop" else value for key, value in asked.get("settings", {}).items()}
        arms.append(Arm(arm, **{**asked, "settings": settings}))
    return Experiment(name, tuple(arms), goal=Goal(given.get("goal", "higher")), **fields)


def _check(design: Experiment, settings: Settings, catalog: Catalog) -> None:
    """Prompts, routes and scorers exist, and no arm's prompt needs what its callers do not send."""
    for scorer in design.scorers:
        key = f"experiments.{design.name}.scorers"
        if scorer in AUTOMATIC:
            raise ConfigError(f"{key}: {scorer} is measured anyway", key=key)
        if scorer in NEED_RIGHT:
            raise ConfigError(f"{key}: {scorer} needs the right answer, which nobody knows here", key=key)
        try:
            find(scorer)
        except InvalidRequest as error:
            raise ConfigError(f"{key}: {error}", source=settings.source, key=key) from error
    names = {*settings.routes, *(target.name for target in settings.targets)}
    for arm in design.arms:
        key = f"experiments.{design.name}.arms.{arm.name}"
        if arm.route and arm.route not in names:
            said = f'{key}: there is no route or target "{arm.route}"; there are {", ".join(sorted(names))}'
            raise ConfigError(said, source=settings.source, key=key)
        if arm.prompt and not design.prompt:
            raise ConfigError(f"{key}: the experiment concerns a route; its arms have no prompt", key=key)
        try:
            asked = catalog.find(design.prompt) if design.prompt else None
            own = catalog.find(arm.prompt) if arm.prompt else None
        except TemplateError as error:
            raise ConfigError(f"{key}: {error}", source=settings.source, key=key) from error
        if asked and own:
            needed = {name for name, one in own.variables.items() if one.default is None}
            if unknown := needed - set(asked.variables):
                said = f'{key}: it needs "{sorted(unknown)[0]}", which callers of {design.prompt} do not send'
                raise ConfigError(said, source=settings.source, key=key)


class Trials:
    """The experiments of one house. Belongs to an event loop; the disk is written by a thread of its own.
    `journal`: the folder where what a database does not take waits for it, with a copy of what runs.

    `designs` may be exchanged while it runs. `first_target` tells the target and model that a route would ask first.
    """

    def __init__(
        self,
        designs: Mapping[str, Experiment],
        place: Place,
        first_target: Callable[[str], tuple[str, str]],
        journal: Path | None = None,
    ) -> None:
        self.designs = designs
        self.place = place
        self._first_target = first_target
        self._known = Runs(place, None if journal is None else journal / "experiments.json")
        self._store = Store(place, limit_s=_WRITE_S)
        kept = None if journal is None else Journal(journal, "exposures", _JOURNAL_BYTES)
        self._recorder = Recorder(self._store, kept)
        self._marking = Marking(self._recorder.record)
        self._tasks: list[asyncio.Task[None]] = []

    async def ready(self) -> None:
        """Know what runs, if the database can tell."""
        await self._known.begin()

    def start(self) -> None:
        """Judge from time to time, and follow what other servers do."""
        self._tasks += [asyncio.create_task(self._judge_for_ever()), asyncio.create_task(self._known.follow())]

    async def aclose(self) -> None:
        """Write what waits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._marking.close)
        await asyncio.to_thread(self._recorder.close)
        await asyncio.to_thread(self._known.close)
        self._store.close()

    async def look_up(self, request: ChatRequest, prompt: str, caller: Caller) -> None:
        """What `enrol` must know of the unit and cannot wait for. Waits half a second at most; never raises."""
        found = self._concerning(prompt, request.model) if self._known.remote else None
        if found is not None and (unit := _unit(found[0], caller)):
            await self._known.learn(found[1], unit_id(found[1].salt, unit))

    def enrol(self, request: ChatRequest, prompt: str, caller: Caller, size: int, request_id: str) -> Enrolled | None:
        """The arm of a request, if an experiment concerns it. `size`: characters of what was asked.

        A disk that cannot be read costs the experiment a unit, never the caller an answer.
        """
        try:
            found = self._concerning(prompt, request.model)
            if found is not None:
                return self._enrolled(*found, request, prompt, caller, size, request_id)
        except StoreError as error:
            log.warning("a request is in no experiment: %s", error)
        return None

    def _concerning(self, prompt: str, route: str) -> tuple[Experiment, Run] | None:
        runs = self._known.now()
        for design in self.designs.values():
            run = runs.get(design.name)
            if run is not None and run.state is not State.STOPPED and _concerns(design, prompt, route):
                return design, run
        return None

    def watch(self, reply: Reply, enrolled: Enrolled, values: Mapping[str, Any] | None = None) -> Reply:
        """`reply`, with its arm in the report and its outcomes recorded when it ends.

        `values`: of the prompt's variables, for scorers.
        """
        reply.report.experiment, reply.report.arm = enrolled.run.name, enrolled.arm.name
        return Reply(self._watched(reply, enrolled, values or {}), reply.report)

    def feedback(self, request_id: str, metric: str, value: float) -> list[str]:
        """Store an outcome for every experiment that the request was in; gives their names.

        Raises `InvalidRequest` if it was in none, for a metric that the house measures itself, and for a value that no
        sum of squares holds. While the database is away it is stored all the same, and counts if the request turns out
        to have been in one; then no names are given. Blocks.
        """
        if not abs(value) <= _LARGEST_OUTCOME:
            raise InvalidRequest(f"a value is a number of at most {_LARGEST_OUTCOME:g} either way", param="value")
        names = {*self._known.now(), *(self.designs if self._known.remote else ())}
        ids = {name: exposure_id(name, request_id) for name in names}
        units = {name: unit for name, number in ids.items() if (unit := self._known.recent(number)) is not None}
        now = time.time()
        if not units:
            try:
                units = self._looked_up(ids)
                if not units and self._known.unsure:
                    raise Unavailable("the database may not have the exposure yet")
            except Unavailable:
                self._check_metric(metric, ids)
                self._recorder.record(*(Outcome(None, number, metric, value, now) for number in ids.values()))
                return []
        if not units:
            said = f'no experiment saw the request "{request_id}"; it has an experiment in its answer if one did'
            raise InvalidRequest(said, param="id")
        self._check_metric(metric, units)
        self._recorder.record(*(Outcome(unit, ids[name], metric, value, now) for name, unit in units.items()))
        return list(units)

    def _check_metric(self, metric: str, names: Iterable[str]) -> None:
        own = {*AUTOMATIC, *(scorer for name in names if name in self.designs for scorer in self.designs[name].scorers)}
        if metric in own:
            said = f'"{metric}" is measured here and is not for a caller to tell; use another name'
            raise InvalidRequest(said, param="metric")

    def _looked_up(self, ids: Mapping[str, int]) -> dict[str, int]:
        if self._known.away:
            raise Unavailable("the database is away")
        self._recorder.flush()
        return self._known.units_of(ids)

    def _enrolled(
        self,
        design: Experiment,
        run: Run,
        request: ChatRequest,
        prompt: str,
        caller: Caller,
        size: int,
        request_id: str,
    ) -> Enrolled:
        unit = _unit(design, caller) or request_id
        number = unit_id(run.salt, unit)
        assigned, generation = self._assigned(run, unit, number, known=bool(_unit(design, caller)))
        if run.state is State.PROMOTED:
            assigned = Assigned(run.winner, 1.0)
        arm = design.arm(assigned.arm)
        # The model that stands first before anything is tried: a fallback must not choose the stratum.
        _, model = self._first_target(request.model)
        exposure = Exposure(
            exposure_id(run.name, request_id),
            run.name,
            number,
            arm.name,
            "",
            f"{generation}:{model}",
            assigned.probability,
            float(size) if design.covariate else 0.0,
            time.time(),
        )
        request = structs.replace(
            request,
            model=arm.route or request.model,
            sampling=Sampling(**arm.settings).over(request.sampling) if arm.settings else request.sampling,
        )
        return Enrolled(run, arm, arm.prompt or prompt, request, exposure)

    def _assigned(self, run: Run, unit: str, number: int, *, known: bool) -> tuple[Assigned, int]:
        """By hash, and the generation of weights that it was by. Once weights have changed, who was seen before keeps
        an arm that still gets traffic, and stays in the stratum of those it was compared with. `known`: the unit may
        have been.
        """
        first = self._known.first_of(run, number) if known else None
        if first is not None and run.weights.get(first.arm, 0) > 0:
            return Assigned(first.arm, first.probability), first.generation
        return assign(run.salt, unit, run.weights), run.generation

    async def _watched(self, reply: Reply, enrolled: Enrolled, values: Mapping[str, Any]) -> Chunks:
        pieces: list[str] = []
        outcomes: dict[str, float] = {}
        try:
            async with aclosing(reply.chunks) as chunks:
                async for chunk in chunks:
                    pieces.append(chunk.text)
                    if chunk.finish_reason:
                        outcomes = _outcomes(chunk, "".join(pieces))
                    yield chunk
        except CALLERS_OWN:
            raise
        except Error:
            outcomes = {"error": 1.0}
            raise
        finally:
            exposure = self._record(reply.report.target, enrolled, outcomes)
            design = self.designs.get(enrolled.run.name)
            if exposure is not None and design is not None and design.scorers and not outcomes.get("error", 1.0):
                texts = {name: str(value) for name, value in values.items()}
                given = Scored("".join(pieces), values=texts, schema=enrolled.request.json_schema)
                self._marking.mark(design.scorers, given, exposure)

    def fail(self, enrolled: Enrolled) -> None:
        """A request that could not even be asked, such as one too long in its arm's words, counts against that arm."""
        self._record("", enrolled, {"error": 1.0})

    def _record(self, target: str, enrolled: Enrolled, outcomes: Mapping[str, float]) -> Exposure | None:
        """What was recorded: a promoted arm has no rival, and is measured no further."""
        if enrolled.run.state is not State.RUNNING:
            return None
        served = self._served(target, enrolled)
        now = time.time()
        exposure = replace(enrolled.exposure, served=served)
        facts = (Outcome(exposure.unit, exposure.id, name, value, now) for name, value in outcomes.items())
        self._recorder.record(exposure, *facts)
        self._known.seen(exposure)
        return exposure

    def _served(self, target: str, enrolled: Enrolled) -> str:
        """The arm whose first target answered; empty = a fallback did, or nobody."""
        if not target:
            return ""
        design = self.designs[enrolled.run.name]
        if target == self._first_target(enrolled.request.model)[0]:
            return enrolled.arm.name
        routed = [arm.name for arm in design.arms if arm.route and self._first_target(arm.route)[0] == target]
        return routed[0] if len(routed) == 1 else ""

    async def _judge_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_JUDGE_EVERY_S)
            try:
                await asyncio.to_thread(self.judge)
            except StoreError as error:
                log.warning("experiments are not judged: %s", error)

    def judge(self) -> None:
        """What follows from the data now. Blocks. Raises `StoreError`."""
        judge_all(self.place, self.designs)


def _concerns(design: Experiment, prompt: str, route: str) -> bool:
    return design.prompt == prompt if prompt else design.route == (route or "default")


def _unit(design: Experiment, caller: Caller) -> str:
    """Empty = the caller does not say; then each request is a unit by itself."""
    if design.unit == "request":
        return ""
    if design.unit == "body":
        return caller.unit
    header = "authorization" if design.unit == "key" else design.unit.removeprefix("header:").lower()
    return next((value.decode("latin-1") for name, value in caller.headers if name.decode("latin-1") == header), "")


def _outcomes(last: Chunk, text: str) -> dict[str, float]:
    """What the house measures of an answer that has ended."""
    told: dict[str, float] = {
        "error": 0.0,
        "cut_off": float(last.finish_reason == "length"),
        "refusal": float(is_refusal(text) or last.finish_reason == "content_filter"),
    }
    if last.timings:
        told |= {"first_token_s": last.timings.first_token_s, "total_s": last.timings.total_s}
    if last.usage:
        told["output_tokens"] = float(last.usage.completion_tokens)
    return told
