"""An entrance's line to the owner: hears what is published, tells what its requests use and show, passes orders on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from roundhouse.cluster.answered import answered
from roundhouse.cluster.fleet import ENGINE
from roundhouse.cluster.owner import OWNER
from roundhouse.cluster.published import CanaryTold, News, Published, Report, Seen
from roundhouse.cluster.questions import What
from roundhouse.config import Settings
from roundhouse.core.errors import EngineError
from roundhouse.core.portable import restored
from roundhouse.routing.canary import Arm, Canary, Outcome

__all__ = ["Link", "RelayedCanary"]

log = logging.getLogger(__name__)
_ANSWER_S = 10.0
_AGAIN_S = 0.5
_OPEN_S = 60.0
_REMEMBERED = 200


class RelayedCanary(Canary):
    """A canary of the owner's: what its requests show is judged there, over all entrances."""

    def __init__(self, told: CanaryTold, tell: Callable[[Seen], None]) -> None:
        super().__init__(told.percent, told.for_s, told.slow_s)
        self.switch = told.switch
        self._tell = tell

    def observe(self, arm: Arm, outcome: Outcome) -> None:
        self.counts[arm] += 1
        self._tell(Seen(self.switch, arm, outcome.failed, outcome.first_token_s))


class Link:
    """Lives on the entrance's event loop. `apply` is given what is published, each time that it changes, after `adopt`
    was given the configuration that goes with it, where that is another; `answer` is asked what all entrances are
    asked.
    """

    def __init__(
        self,
        application: str,
        adopt: Callable[[Settings], None],
        apply: Callable[[Published], None],
        load: Callable[[], tuple[int, int]],
        answer: Callable[[What], bytes],
    ) -> None:
        self._owner = serve.get_deployment_handle(OWNER, application)
        self._adopt = adopt
        self._apply = apply
        self._load = load
        self._answer = answer
        self.name = f"{_node()}/{secrets.token_hex(4)}"
        self._uses: Counter[str] = Counter()
        self._seen: list[Seen] = []
        self._first_tokens: defaultdict[str, list[float]] = defaultdict(list)
        self._handles: dict[str, Any] = {}
        self._following: asyncio.Task[None] | None = None
        self._adopted = 0
        self.published = Published(0)
        self.state: Mapping[str, Any] = {}

    async def open(self) -> None:
        """Returns once it knows where requests go. Raises `TimeoutError` if there is no owner to tell."""
        async with asyncio.timeout(_OPEN_S):
            while not self.published.version:
                await self._heard()
        self._following = asyncio.create_task(self._follow(), name="news of the owner")

    async def aclose(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    @asynccontextmanager
    async def using(self, target: str) -> AsyncIterator[Any]:
        """The handle of the application that serves `target`, which is brought up if it does not run."""
        application = self.published.applications.get(target) or await self.order("load", target, str)
        self._uses[application] += 1
        try:
            yield self._handle(application)
        finally:
            self._uses[application] -= 1
            if not self._uses[application]:
                del self._uses[application]

    def tell(self, seen: Seen) -> None:
        self._seen.append(seen)

    def first_token(self, target: str, seconds: float) -> None:
        there = self._first_tokens[target]
        if len(there) < _REMEMBERED:
            there.append(seconds)

    async def order(self, what: str, asked: object, kind: Any) -> Any:
        """Have the owner do it. Raises what it raises, `EngineError` while there is no owner."""
        data = await answered(self._owner.order.remote(what, msgspec.msgpack.encode(asked)))
        reply = msgspec.msgpack.decode(data)
        if "error" in reply:
            raise restored(reply["error"])
        return msgspec.convert(reply["value"], kind)

    async def ask_all(self, what: What, kind: Any) -> dict[str, Any]:
        """What each entrance answers, by its name: those that answer in time, and this one in any case."""
        try:
            answers = await self.order("ask", what, dict[str, bytes])
        except EngineError as error:
            log.warning("%s; what other entrances know is left out", error)
            answers = {}
        answers.setdefault(self.name, self._answer(what))
        return {name: msgspec.msgpack.decode(answer, type=kind) for name, answer in answers.items()}

    def _handle(self, application: str) -> Any:
        if application not in self._handles:
            self._handles[application] = serve.get_deployment_handle(ENGINE, application)
        return self._handles[application]

    async def _follow(self) -> None:
        while True:
            await self._heard()

    async def _heard(self) -> None:
        """Hear once, and pause if that failed."""
        try:
            await self._hear()
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        except (TimeoutError, RayError, RayServeException) as error:
            log.warning("no news of the owner (%s): going on by what is known", type(error).__name__)
        except Exception:
            log.exception("news of the owner could not be taken over")
        await asyncio.sleep(_AGAIN_S)

    async def _hear(self) -> None:
        report = self._report()
        async with asyncio.timeout(_ANSWER_S):
            news = msgspec.msgpack.decode(await self._owner.follow.remote(msgspec.msgpack.encode(report)), type=News)
        self.state = news.state
        if news.published.version != self.published.version:
            if news.published.settings != self._adopted:
                async with asyncio.timeout(_ANSWER_S):
                    self._adopted, settings = await self._owner.settings.remote()
                self._adopt(settings)
            self.published = news.published
            self._apply(news.published)
            for gone in set(self._handles) - set(news.published.applications.values()) - set(self._uses):
                await self._forget(gone)
        for question in news.questions:
            await self._owner.answer.remote(question.number, self.name, self._answer(question.what))

    async def _forget(self, application: str) -> None:
        with contextlib.suppress(RayError, RayServeException):
            await self._handles.pop(application).shutdown_async()

    def _report(self) -> Report:
        running, waiting = self._load()
        seen, self._seen = tuple(self._seen), []
        first, self._first_tokens = self._first_tokens, defaultdict(list)
        times = {target: tuple(seconds) for target, seconds in first.items()}
        return Report(self.name, self.published.version, dict(self._uses), running, waiting, seen, times)


def _node() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
