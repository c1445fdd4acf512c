"""Experiments in a running house: who is in which arm, what came of it, and what follows by the rules."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import platformdirs
from msgspec import structs

from roundhouse.config import Settings
from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Sampling
from roundhouse.core.errors import ConfigError, Error, InvalidRequest, StoreError, TemplateError
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
from roundhouse.experiments.estimate import Sums
from roundhouse.experiments.recorder import Recorder
from roundhouse.experiments.store import Exposure, Outcome, Run, State, Store
from roundhouse.experiments.thompson import shares
from roundhouse.experiments.verdict import Data, Decision, Report, judge
from roundhouse.gateway.marking import Marking
from roundhouse.prompts.catalog import Catalog
from roundhouse.routing.manager import Reply
from roundhouse.scoring.scorers import NEED_RIGHT, Scored, find
from roundhouse.scoring.text import is_refusal

__all__ = ["CALLERS_OWN", "Caller", "Enrolled", "Trials", "data_of", "designs_of", "state_path"]

log = logging.getLogger(__name__)
# Mistakes of the caller, which say nothing about an arm.
CALLERS_OWN = (InvalidRequest, TemplateError)
_REREAD_S = 0.5
_JUDGE_EVERY_S = 30.0
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


def state_path() -> Path:
    return platformdirs.user_state_path("roundhouse") / "experiments.sqlite"


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

    `designs` may be exchanged while it runs. `first_target` tells the target and model that a route would ask first.
    """

    def __init__(
        self, designs: Mapping[str, Experiment], path: Path, first_target: Callable[[str], tuple[str, str]]
    ) -> None:
        self.designs = designs
        self.path = path
        self._first_target = first_target
        self._reader = Store(path)
        self._recorder = Recorder(Store(path))
        self._marking = Marking(self._recorder.record)
        self._runs: Mapping[str, Run] = self._reader.runs()
        self._seen = self._reader.changes()
        self._reread_at = 0.0
        self._judging: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Judge from time to time."""
        self._judging = asyncio.create_task(self._judge_for_ever())

    async def aclose(self) -> None:
        """Write what waits."""
        if self._judging is not None:
            self._judging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._judging
        await asyncio.to_thread(self._marking.close)
        await asyncio.to_thread(self._recorder.close)
        self._reader.close()

    def enrol(self, request: ChatRequest, prompt: str, caller: Caller, size: int, request_id: str) -> Enrolled | None:
        """The arm of a request, if an experiment concerns it. `size`: characters of what was asked.

        A disk that cannot be read costs the experiment a unit, never the caller an answer.
        """
        try:
            self._reread()
            for design in self.designs.values():
                run = self._runs.get(design.name)
                if run is not None and run.state is not State.STOPPED and _concerns(design, prompt, request.model):
                    return self._enrolled(design, run, request, prompt, caller, size, request_id)
        except StoreError as error:
            log.warning("a request is in no experiment: %s", error)
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
        sum of squares holds.
        """
        if not abs(value) <= _LARGEST_OUTCOME:
            raise InvalidRequest(f"a value is a number of at most {_LARGEST_OUTCOME:g} either way", param="value")
        self._recorder.flush()
        ids = {name: exposure_id(name, request_id) for name in self._runs}
        units = {name: self._reader.unit_of(number) for name, number in ids.items()}
        found = {name: unit for name, unit in units.items() if unit is not None}
        if not found:
            said = f'no experiment saw the request "{request_id}"; it has an experiment in its answer if one did'
            raise InvalidRequest(said, param="id")
        own = {*AUTOMATIC, *(scorer for name in found if name in self.designs for scorer in self.designs[name].scorers)}
        if metric in own:
            said = f'"{metric}" is measured here and is not for a caller to tell; use another name'
            raise InvalidRequest(said, param="metric")
        now = time.time()
        self._recorder.record(*(Outcome(unit, ids[name], metric, value, now) for name, unit in found.items()))
        return list(found)

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
        assigned, generation = self._assigned(run, unit, number)
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

    def _assigned(self, run: Run, unit: str, number: int) -> tuple[Assigned, int]:
        """By hash, and the generation of weights that it was by. Once weights have changed, who was seen before keeps
        an arm that still gets traffic, and stays in the stratum of those it was compared with.
        """
        first = self._reader.first_of(run.name, number) if run.generation > 1 else None
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

    def _reread(self) -> None:
        """What another process has started or stopped, at most twice a second."""
        now = time.monotonic()
        if now < self._reread_at:
            return
        self._reread_at = now + _REREAD_S
        if (seen := self._reader.changes()) != self._seen:
            self._seen, self._runs = seen, self._reader.runs()

    async def _judge_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_JUDGE_EVERY_S)
            try:
                await asyncio.to_thread(self.judge)
            except StoreError as error:
                log.warning("experiments are not judged: %s", error)

    def judge(self) -> None:
        """Stop what does harm, promote what has won where that was asked for; both are logged and kept as events."""
        store = Store(self.path)
        try:
            for run in store.runs().values():
                design = self.designs.get(run.name)
                if design is not None and run.state is State.RUNNING:
                    data = data_of(store, design)
                    _act(store, design, run, data, judge(design, data, run.weights))
        finally:
            store.close()


def data_of(store: Store, design: Experiment) -> Data:
    """All that is stored of an experiment, as sums."""
    metrics = {name: store.sums(design.name, name) for name in (design.metric, *design.guardrails)}
    return Data(
        metrics,
        store.sums(design.name, design.metric, served=True),
        store.counts(design.name),
        store.counts(design.name, served=True),
    )


def _act(store: Store, design: Experiment, run: Run, data: Data, report: Report) -> None:
    if report.decision is Decision.HARM:
        store.stop(design.name, report.said, time.time())
        log.warning("experiment %s was stopped: %s", design.name, report.said)
    elif design.auto_promote and report.may_promote:
        store.promote(design.name, report.winner, report.said, time.time())
        log.warning("experiment %s: %s was promoted: %s", design.name, report.winner, report.said)
    elif design.allocation is Allocation.THOMPSON and report.decision is Decision.COLLECTING:
        _reallocate(store, design, run, data)


def _reallocate(store: Store, design: Experiment, run: Run, data: Data) -> None:
    """New shares once enough units have come under the present ones."""
    come = sum(units for (generation, _), units in data.counts.items() if generation == str(run.generation))
    if come < design.batch:
        return
    by_arm = data.metrics[design.metric]
    sums = {arm.name: sum(by_arm.get(arm.name, {}).values(), Sums()) for arm in design.arms}
    new = shares(sums, design.goal, Random(f"{run.salt}{run.generation}"))  # noqa: S311 - the same in every process
    if store.reweigh(design.name, new, run.generation, time.time()):
        log.info("experiment %s: new shares %s", design.name, new)


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
