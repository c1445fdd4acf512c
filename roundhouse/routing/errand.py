"""An attempt that another process carries out: what it is told, what it tells, and the two ends of it.

The owner decides: it grants the slot, makes the engine ready and words the request, as for an attempt of its own; what
follows a failure is its business too. The other process streams from the backend to the client, within the limits
that the order names, and tells in the end what the client was given. So the pieces of an answer never pass the owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Sampling, ToolCall
from roundhouse.core.errors import Attempt as Tried
from roundhouse.core.errors import EngineError, Error
from roundhouse.core.portable import Span, restored
from roundhouse.core.report import Report, Seam
from roundhouse.prompts.families import DEFAULT
from roundhouse.providers.base import LLMProvider
from roundhouse.routing.attempt import Attempt
from roundhouse.routing.contact import Contact
from roundhouse.routing.failover import Sent
from roundhouse.routing.target import Target, TokenLimits
from roundhouse.telemetry.buckets import Gaps

__all__ = [
    "Began",
    "CarriedOut",
    "Ended",
    "Errand",
    "Failed",
    "Given",
    "Head",
    "Left",
    "Order",
    "Ordered",
    "Outcome",
    "Place",
]


class Head(msgspec.Struct, frozen=True):
    """What a report says when an attempt begins; the rest comes of the attempt itself."""

    route: str
    attempts: list[Tried]
    seams: list[Seam]
    prompt: str
    variant: str
    experiment: str
    arm: str
    warnings: list[str]
    queue_s: float
    load_s: float

    @classmethod
    def of(cls, report: Report) -> Head:
        return cls(*(getattr(report, name) for name in cls.__struct_fields__))

    def onto(self, report: Report) -> None:
        for name in self.__struct_fields__:
            setattr(report, name, getattr(self, name))


class Order(msgspec.Struct, frozen=True):
    """One attempt to be carried out. `request` None = as it was asked, with this `sampling`.

    `deadline` by the monotonic clock, which all processes of a machine share.
    """

    target: str
    model: str
    replica: str
    managed: bool
    contact: Contact
    limits: TokenLimits
    sampling: Sampling
    request: ChatRequest | None
    span: Span | None
    deadline: float
    head: Head

    def asked(self, request: ChatRequest) -> ChatRequest:
        """What the backend is to be asked, given what the client asked."""
        trace = None if self.span is None else self.span.context()
        return replace(self.request or request, sampling=self.sampling, trace=trace)


class Given(msgspec.Struct, frozen=True):
    """What the client was given of one attempt, in pieces where those count."""

    parts: list[str] = []
    reasoning: str = ""
    tool_calls: list[ToolCall] = []

    def chunks(self) -> Iterator[Chunk]:
        for text in self.parts:
            yield Chunk(text=text)
        if self.reasoning or self.tool_calls:
            yield Chunk(reasoning=self.reasoning, tool_calls=tuple(self.tool_calls))


class Passed(msgspec.Struct, frozen=True):
    """Times between the pieces of the whole answer so far, the last of which came `at`."""

    counts: list[int]
    total_s: float
    at: float

    @classmethod
    def of(cls, gaps: Gaps, at: float) -> Passed:
        return cls(gaps.counts, gaps.total, at)

    def onto(self, gaps: Gaps) -> None:
        gaps.counts, gaps.total = self.counts, self.total_s


class Began(msgspec.Struct, frozen=True, tag=True):
    """The first piece was given on. Told of a traced attempt only."""

    first: Given


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The answer is whole. `last` without its content, which is in `given`."""

    given: Given
    last: Chunk
    overhead_s: float
    passed: Passed


class Failed(msgspec.Struct, frozen=True, tag=True):
    """`error` as `portable` tells it."""

    given: Given
    error: dict[str, Any]
    overhead_s: float
    passed: Passed


class Left(msgspec.Struct, frozen=True, tag=True):
    """The client has gone, and the backend's stream is closed."""

    given: Given
    passed: Passed


Outcome = Began | Ended | Failed | Left


class Errand(Protocol):
    """The owner's side of one request that another process answers. `arrived`: when it came there."""

    @property
    def request_id(self) -> str: ...

    @property
    def arrived(self) -> float: ...

    @property
    def asked(self) -> ChatRequest:
        """What the other process has."""
        ...

    @property
    def gaps(self) -> Gaps: ...

    def order(self, order: Order, attempt: Ordered) -> None: ...

    async def outcome(self) -> Outcome: ...


class Ordered(Attempt):
    """The owner's end: an attempt like any other, whose content arrives when it is over."""

    def __init__(self, errand: Errand, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._errand = errand
        self._has_begun = False

    async def chunks(self) -> Chunks:
        _, request = await self._ready()
        contact = self._replica.contact
        if contact is None:
            raise EngineError(f"{self._replica.key} cannot be asked by another process", target=self._target.name)
        self._errand.order(self._order(contact, request), self)
        return self._carried()

    def begins(self) -> None:
        """Its first content was given on."""
        if not self._has_begun:
            self._has_begun = True
            self._begun()

    def moved(self, at: float) -> None:
        """The backend gave something at that moment."""
        self._replica.moved_at = max(self._replica.moved_at, at)
        self._replica.gave_at = max(self._replica.gave_at, at)

    @property
    def replica(self) -> str:
        return self._replica.key

    def _order(self, contact: Contact, request: ChatRequest) -> Order:
        as_asked = request.messages is self._errand.asked.messages and request.wording is None
        return Order(
            self._target.name,
            self._target.model,
            self._replica.key,
            self._replica.engine.managed,
            contact,
            self._target.limits,
            request.sampling,
            None if as_asked else replace(request, trace=None),
            None if request.trace is None else Span.of(request.trace),
            self._deadline,
            Head.of(self._report),
        )

    async def _carried(self) -> Chunks:
        while True:
            outcome = await self._errand.outcome()
            given = outcome.first if isinstance(outcome, Began) else outcome.given
            if isinstance(outcome, Ended) or given != _NOTHING:
                self.moved(self._clock() if isinstance(outcome, Began) else outcome.passed.at)
                self.begins()
            if not isinstance(outcome, Began):
                outcome.passed.onto(self._errand.gaps)
            if isinstance(outcome, (Ended, Failed)):
                self._report.overhead_s = self._report.overhead_s or outcome.overhead_s
            for chunk in given.chunks():
                yield chunk
            if isinstance(outcome, Ended):
                self._report.warnings.extend(dict.fromkeys(outcome.last.warnings))
                yield outcome.last
                return
            if isinstance(outcome, Failed):
                raise self._ours(restored(outcome.error), 0.0, "")
            if isinstance(outcome, Left):
                raise asyncio.CancelledError  # as everywhere: who leaves cancels what was done for him


_NOTHING = Given()


@dataclass(slots=True)
class _Engine:
    managed: bool
    death: Error | None = None


@dataclass(slots=True)
class Place:
    """A replica as the other process knows it."""

    key: str
    engine: _Engine
    moved_at: float = 0.0
    gave_at: float = 0.0
    contact: Contact | None = None
    ready_client: LLMProvider | None = None

    @classmethod
    def of(cls, order: Order) -> Place:
        return cls(order.replica, _Engine(order.managed))

    async def client(self) -> LLMProvider:
        raise EngineError(f"{self.key} is made ready by its owner", target=self.key)


class CarriedOut(Attempt):
    """The other end: `client` is of a ready engine, and the request is in the words that its model takes."""

    def __init__(
        self,
        order: Order,
        place: Place,
        client: LLMProvider,
        request: ChatRequest,
        report: Report,
        sent: Sent,
        *,
        arrived: float,
        clock: Callable[[], float],
    ) -> None:
        target = Target(order.target, order.model, (), limits=order.limits, family=DEFAULT)
        super().__init__(target, place, request, report, sent, arrived=arrived, deadline=order.deadline, clock=clock)
        self._ready_client = client

    async def _ready(self) -> tuple[LLMProvider, ChatRequest]:
        return self._ready_client, self._request
