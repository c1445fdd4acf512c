"""Many requests over failing targets in any order: each ends in time, none is lost, nothing is left behind."""

import asyncio
import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roundhouse.core import errors
from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Usage, collect
from roundhouse.core.model import Capabilities
from roundhouse.core.report import Report
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import Engine
from roundhouse.providers.base import AsyncProvider
from roundhouse.routing.breaker import BreakerPolicy, BreakerState
from roundhouse.routing.manager import Manager
from roundhouse.routing.replica import Replica
from roundhouse.routing.route import Route
from roundhouse.routing.run import Policy
from roundhouse.routing.target import Target, TokenLimits

WORDS = ["one", " two", " three", " four"]
ACTS = [
    "right", "right", "refused", "reset", "500", "503", "429", "loading", "misconfigured", "cut early", "cut late",
    "silent", "mistake", "odd",
]  # fmt: skip
FAILS: dict[str, errors.Error | Exception] = {
    "refused": errors.ConnectFailed("no", refused=True),
    "reset": errors.ConnectFailed("reset"),
    "500": errors.ProviderError("no", status=500),
    "503": errors.Overloaded("no", retry_after_s=0.02),
    "429": errors.Overloaded("no", retry_after_s=0.02, rate_limited=True),
    "loading": errors.Loading("not yet"),
    "misconfigured": errors.Misconfigured("key"),
    "mistake": errors.InvalidRequest("no"),
    "odd": ZeroDivisionError("a bug"),
}


class Moody(AsyncProvider):
    """Does the next of its acts for each request, over and over."""

    def __init__(self, acts: list[str], log: list[tuple[str, bool]], replica: str) -> None:
        self._acts = acts
        self._asked = 0
        self.running = 0
        self.most = 0
        self.log = log
        self.replica = replica

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(streaming=True, continuation=True)

    async def astream(self, request: ChatRequest) -> Chunks:
        act = self._acts[self._asked % len(self._acts)]
        self._asked += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if act in FAILS:
                raise FAILS[act]
            if act == "silent":
                await asyncio.sleep(30)
            given = request.messages[-1].content if request.continue_last else ""
            rest = "".join(WORDS)[len(given) :]
            for number, word in enumerate(rest.replace(" ", "\0 ").split("\0")):
                if act == ("cut early", "cut late")[number > 1] and number:
                    raise errors.StreamBroken("cut")
                await asyncio.sleep(0)
                yield Chunk(text=word)
            yield Chunk(finish_reason="stop", usage=Usage(1, len(WORDS)))
        finally:
            self.running -= 1


HOUSES = st.lists(
    st.lists(st.lists(st.sampled_from(ACTS), min_size=1, max_size=4), min_size=1, max_size=2), min_size=1, max_size=3
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    HOUSES,
    st.integers(1, 2),
    st.lists(st.sampled_from(["wait", "wait", "leave"]), min_size=1, max_size=24),
    st.integers(0, 99),
)
def test_every_request_ends_and_nothing_is_left(house: Any, slots: int, clients: list[str], seed: int) -> None:
    asyncio.run(_simulate(house, slots, clients, random.Random(seed)))


async def _simulate(house: Any, slots: int, clients: list[str], rng: random.Random) -> None:
    log: list[tuple[str, bool]] = []
    targets, moods = [], {}
    for number, replicas in enumerate(house):
        made = []
        for index, acts in enumerate(replicas):
            key = f"t{number}#{index}"
            moods[key] = Moody(acts, log, key)
            engine = Engine(key, launch.attach("http://unused"))
            policy = BreakerPolicy(open_s=0.02, most_open_s=0.1)
            made.append(Replica(key, engine, lambda ready, key=key: moods[key], slots, policy))  # type: ignore[misc]
        limits = TokenLimits(0.05, 0.05)
        targets.append(Target(f"t{number}", "m", made, limits=limits, capabilities=moods[f"t{number}#0"].capabilities))
    hedge_s = rng.choice([0.0, 0.0, 0.005])
    manager = Manager(targets, Policy(queue=8, backoff_s=0.001, hedge_s=hedge_s), chance=rng.random)
    tiers = tuple((target.name,) for target in targets)

    async def ask(number: int, kind: str) -> None:
        request = ChatRequest.of("q", deadline_s=1.0, priority=rng.randint(-1, 1))
        reply = manager.stream(request, Route("r", tiers), Report(str(number), "r"))
        if kind == "leave":
            task = asyncio.ensure_future(anext(reply.chunks))
            await asyncio.sleep(rng.random() * 0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await reply.chunks.aclose()
            return
        try:
            answer = collect([chunk async for chunk in reply.chunks])
        except errors.Error:
            return
        assert answer.text == "".join(WORDS), "a cut answer looked whole"

    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(10):
        await asyncio.gather(*(ask(number, kind) for number, kind in enumerate(clients)))
    assert loop.time() - began < 3, "somebody waited past the deadline"
    for target in manager.targets.values():
        for replica in target.replicas:
            assert replica.busy == 0, "a slot was leaked"
            assert moods[replica.key].running == 0, "a backend still works for nobody"
            assert moods[replica.key].most <= slots, "more were asked than there are slots"
            assert replica.standing.breaker.state in BreakerState
    assert (len(manager.admission.waiting), manager.active, manager.retrying) == (0, 0, 0)
    await manager.aclose()
