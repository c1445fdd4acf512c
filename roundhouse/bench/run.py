"""One run: each load driven in turn, measured, judged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TypeVar

from roundhouse.bench.arrivals import Arrivals, ClosedLoop, OpenLoop, Shape, pick, plan
from roundhouse.bench.dataset import Question
from roundhouse.bench.driver import Ask, closed_loop, keep_asking, planned, quiet, send
from roundhouse.bench.happenings import Happenings
from roundhouse.bench.quality import judge
from roundhouse.bench.records import Record
from roundhouse.bench.results import Point
from roundhouse.bench.sampling import Sampler
from roundhouse.bench.summary import Window, in_window, summarise
from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import BadResponse, ConnectFailed, Error, Misconfigured, ModelNotFound

__all__ = ["STOPPED", "Driven", "Setup", "Subject", "describe", "drive", "warm_up"]

T = TypeVar("T")
STOPPED = "it was stopped"
# What the first request met, all others would: a load of them says nothing about the subject.
_HOPELESS = frozenset(kind.code for kind in (ConnectFailed, Misconfigured, ModelNotFound))


@dataclass(frozen=True, slots=True)
class Setup:
    """`warmup_s` and `cooldown_s` at the ends of each load are driven and not measured. What is unanswered
    `limit_s` after the last request was due is cut. `texts`: answers are kept in the results.
    """

    requests: Sequence[ChatRequest]
    questions: Sequence[Question]
    slos: Mapping[str, float] = field(default_factory=dict)
    warmup_s: float = 0.0
    cooldown_s: float = 0.0
    limit_s: float = 600.0
    seed: int = 0
    hertz: float = 5.0
    texts: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: `open` starts it, and ends it when it is left; it is opened once for each of its turns.

    `happenings`: where it notes what becomes of its engines.
    """

    name: str
    open: Callable[[], AbstractAsyncContextManager[Ask]]
    setup: Setup
    happenings: Happenings = field(default_factory=Happenings)


@dataclass(slots=True)
class Driven:
    """The points of each subject in the order they were measured. `ended_early`: why not all; empty = all were."""

    points: list[list[Point]]
    ended_early: str = ""


async def warm_up(ask: Ask, setup: Setup, count: int = 1) -> list[Record]:
    """Ask `count` questions one after another, so that a model is loaded before anything is timed."""
    items = pick(range(len(setup.requests)), count, setup.seed)
    return await closed_loop(ask, setup.requests, items, ClosedLoop(1, count), limit_s=setup.limit_s)


async def drive(
    subjects: Sequence[Subject],
    loads: Sequence[Arrivals],
    *,
    rounds: int = 1,
    tell: Callable[[str], None] = lambda text: None,
    stop: asyncio.Event | None = None,
) -> Driven:
    """Every load of every subject, `rounds` times.

    Every other round goes backwards (ABBA), so that what drifts weighs on all alike. A subject is open during its own
    turns alone, and is asked one question before anything is timed. What was measured before `stop` is set, or before
    a subject fails to open, is not lost. Raises what keeps the very first from opening.
    """
    driven = Driven([[] for _ in subjects])
    stop = stop or asyncio.Event()
    try:
        for place, turns in groupby(_order(len(subjects), rounds), key=lambda turn: turn[0]):
            subject = subjects[place]
            async with subject.open() as ask:
                (first,) = await warm_up(ask, subject.setup)
                if first.error in _HOPELESS:
                    raise BadResponse(
                        f"{subject.name} was not driven: its first request failed ({first.error}), and all others "
                        "would; check that it runs, its name, URL and key"
                    )
                if first.error:
                    tell(f"note: the first request of {subject.name} failed ({first.error})")
                for _, number in turns:
                    for load in _turned(loads, number):
                        tell(_announced(subject, load, number, rounds, alone=len(subjects) == 1))
                        point = await _point(ask, subject, load, number, stop)
                        driven.points[place] += [point] if point.records else []
                        if stop.is_set():
                            driven.ended_early = STOPPED
                            return driven
    except Error as error:
        if not any(driven.points):
            raise
        driven.ended_early = str(error)
    return driven


def _order(subjects: int, rounds: int) -> list[tuple[int, int]]:
    """(subject, round) as they come."""
    return [(place, number) for number in range(rounds) for place in _turned(range(subjects), number)]


def _turned(what: Sequence[T], number: int) -> Sequence[T]:
    return what if number % 2 == 0 else what[::-1]


def _announced(subject: Subject, load: Arrivals, number: int, rounds: int, *, alone: bool) -> str:
    named = describe(load) if alone else f"{subject.name}: {describe(load)}"
    return f"{named}, round {number + 1} of {rounds}" if rounds > 1 else named


async def _point(ask: Ask, subject: Subject, load: Arrivals, repeat: int, stop: asyncio.Event) -> Point:
    setup = subject.setup
    records, work = _work(ask, setup, load, setup.seed + repeat)
    with quiet(), Sampler(setup.hertz) as sampler:
        begun = sampler.begun
        await _until_stopped(work(begun), stop)
    records = [record for record in records if record.end]  # the others were never sent
    window = _window(records, setup, load)
    summary = summarise(records, window, setup.slos, paced=isinstance(load, OpenLoop))
    quality = judge(in_window(records, window), setup.questions)
    if not setup.texts:
        for record in records:
            record.text = ""
    level, unit = (load.users, "users") if isinstance(load, ClosedLoop) else (_rate(load, records), "requests/s")
    happened = subject.happenings.since(begun)
    return Point(describe(load), level, unit, repeat, window, summary, quality, records, sampler.samples, happened)


def _work(
    ask: Ask, setup: Setup, load: Arrivals, seed: int
) -> tuple[list[Record], Callable[[float], Coroutine[None, None, None]]]:
    """The records that will be filled in, and what fills them in from a moment on; planned before the first is due."""
    if isinstance(load, OpenLoop):
        due = plan(replace(load, seed=seed))
        records = planned(pick(range(len(setup.requests)), len(due), seed), due)
        return records, lambda begun: send(ask, setup.requests, records, begun, limit_s=setup.limit_s)
    asked: list[Record] = []
    items = pick(range(len(setup.requests)), load.count, seed)
    return asked, lambda begun: keep_asking(ask, setup.requests, asked, items, load.users, begun, limit_s=setup.limit_s)


async def _until_stopped(work: Coroutine[None, None, None], stop: asyncio.Event) -> None:
    """`work` to its end, or cancelled when it is to stop."""
    driving, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((driving, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        driving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await driving


def _window(records: Sequence[Record], setup: Setup, load: Arrivals) -> Window:
    """An open loop is measured while it sends; a closed one until its last answer, for it waits for each."""
    last = max((record.scheduled for record in records), default=0.0)
    if isinstance(load, ClosedLoop):
        last = max((record.end for record in records), default=0.0)
    elif load.shape is not Shape.REPLAY and load.rate:
        last += 1 / max(load.rate, load.to_rate)  # the last request has its share of time too
    begin = min(setup.warmup_s, last)
    return Window(begin, max(begin, last - setup.cooldown_s))


def _rate(load: OpenLoop, records: Sequence[Record]) -> float:
    if load.shape is not Shape.REPLAY:
        return load.rate
    span = records[-1].scheduled - records[0].scheduled if records else 0.0
    return len(records) / span if span else float(len(records))


def describe(load: Arrivals) -> str:
    """In words."""
    if isinstance(load, ClosedLoop):
        return f"{load.users} user{'s' if load.users > 1 else ''}, {load.count} requests"
    match load.shape:
        case Shape.REPLAY:
            return f"replay of {len(load.trace)} requests"
        case Shape.RAMP:
            return f"ramp from {load.rate:g} to {load.to_rate:g} requests/s, {load.count} requests"
    return f"{load.shape.value} {load.rate:g} requests/s, {load.count} requests"
