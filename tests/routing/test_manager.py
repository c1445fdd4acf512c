"""Who answers: failover before the first content only, limits on every wait, slots given back in every case."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from roundhouse.core import errors
from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Sampling, Usage, collect
from roundhouse.core.model import Health
from roundhouse.core.report import Report
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import Engine
from roundhouse.providers.base import AsyncProvider, LLMProvider
from roundhouse.routing.manager import Manager, Reply
from roundhouse.routing.replica import Replica
from roundhouse.routing.route import Route
from roundhouse.routing.run import Policy
from roundhouse.routing.target import Target, TokenLimits

END = Chunk(finish_reason="stop", usage=Usage(1, 3))
Act = Chunk | Exception | float


class Scripted(AsyncProvider):
    """Does what it is told: gives a chunk, raises, or is silent for some seconds."""

    def __init__(self, acts: Sequence[Act]) -> None:
        self.acts = acts
        self.asked: list[ChatRequest] = []
        self.closed = 0

    async def astream(self, request: ChatRequest) -> Chunks:
        self.asked.append(request)
        try:
            for act in self.acts:
                if isinstance(act, Chunk):
                    yield act
                elif isinstance(act, Exception):
                    raise act
                else:
                    await asyncio.sleep(act)
        finally:
            self.closed += 1


def _target(name: str, provider: LLMProvider, **changes: Any) -> Target:
    slots = changes.pop("slots", 1)
    replica = Replica(name, Engine(name, launch.attach("http://unused")), lambda ready: provider, slots)
    values: dict[str, Any] = {"model": f"{name}-model", "limits": TokenLimits(0.2, 0.2), **changes}
    return Target(name, replicas=[replica], **values)


Make = Callable[..., tuple[Manager, Callable[..., Reply]]]


@pytest.fixture
async def house() -> AsyncIterator[Make]:
    made: list[Manager] = []

    def make(*targets: Target, **options: Any) -> tuple[Manager, Callable[..., Reply]]:
        manager = Manager(targets, Policy(**{"backoff_s": 0.01, **options}))
        tiers = tuple((target.name,) for target in targets)
        made.append(manager)

        def ask(request: ChatRequest | None = None) -> Reply:
            return manager.stream(request or ChatRequest.of("q"), Route("default", tiers), Report("id", "default"))

        return manager, ask

    yield make
    for manager in made:
        for target in manager.targets.values():
            assert [replica.busy for replica in target.replicas] == [0], "a slot was leaked"
        assert (len(manager.admission.waiting), manager.active, manager.retrying) == (0, 0, 0)
        await manager.aclose()


async def _text(reply: Reply) -> str:
    return collect([chunk async for chunk in reply.chunks]).text


async def test_the_first_target_that_can_answers_and_the_report_says_who(house: Make) -> None:
    broken = Scripted([errors.ConnectFailed("refused", refused=True)])
    _, ask = house(_target("a", broken), _target("b", Scripted([Chunk(text="hi"), END])))
    reply = ask()
    assert await _text(reply) == "hi"
    assert (reply.report.target, reply.report.model) == ("b", "b-model")
    assert [(attempt.target, attempt.outcome) for attempt in reply.report.attempts] == [
        ("a", "connect_failed"),
        ("b", "ok"),
    ]


@pytest.mark.parametrize(
    "failure",
    [
        [errors.Overloaded("full")],
        [Chunk(), Chunk(warnings=("w",)), errors.StreamBroken("cut")],
        [ZeroDivisionError("a third party's bug")],
        [5.0],
        [Chunk()],
    ],
    ids=["overloaded", "cut before content", "foreign exception", "silent", "ended without a word"],
)
async def test_any_failure_before_content_is_silent_to_the_client(house: Make, failure: list[Act]) -> None:
    failing = Scripted(failure)
    _, ask = house(_target("a", failing), _target("b", Scripted([Chunk(text="hi"), END])))
    assert await _text(ask()) == "hi"
    assert failing.closed == 1


async def test_after_content_a_failure_is_raised_and_nothing_is_asked_again(house: Make) -> None:
    spare = Scripted([Chunk(text="other"), END])
    _, ask = house(_target("a", Scripted([Chunk(text="half"), errors.StreamBroken("cut")])), _target("b", spare))
    reply = ask()
    assert (await anext(reply.chunks)).text == "half"
    with pytest.raises(errors.StreamBroken):
        await anext(reply.chunks)
    assert spare.asked == []


@pytest.mark.parametrize("kind", [errors.InvalidRequest, errors.ContentRefused])
async def test_a_callers_mistake_goes_back_to_the_caller(house: Make, kind: type[errors.Error]) -> None:
    spare = Scripted([Chunk(text="other"), END])
    _, ask = house(_target("a", Scripted([kind("no")])), _target("b", spare))
    with pytest.raises(kind):
        await _text(ask())
    assert spare.asked == []


async def test_a_caller_may_forbid_failover(house: Make) -> None:
    _, ask = house(_target("a", Scripted([errors.Overloaded("full")])), _target("b", Scripted([END])))
    with pytest.raises(errors.Overloaded):
        await _text(ask(ChatRequest.of("q", fallback=False)))


async def test_when_all_failed_the_first_cause_and_every_attempt_are_told(house: Make) -> None:
    first = errors.ConnectFailed("refused", refused=True)
    _, ask = house(_target("a", Scripted([first])), _target("b", Scripted([errors.BadResponse("odd")])))
    with pytest.raises(errors.AllProvidersFailed, match="a: refused; b: odd") as caught:
        await _text(ask())
    assert caught.value.cause is first
    assert [attempt.target for attempt in caught.value.attempts] == ["a", "b"]


async def test_silence_between_tokens_ends_with_the_limit_that_was_passed(house: Make) -> None:
    _, ask = house(_target("a", Scripted([Chunk(text="x"), 5.0])))
    reply = ask()
    await anext(reply.chunks)
    with pytest.raises(errors.TimedOut) as caught:
        await anext(reply.chunks)
    assert (caught.value.phase, caught.value.limit_s) == ("between_tokens", 0.2)


async def test_pings_and_empty_pieces_do_not_stop_the_first_tokens_clock(house: Make) -> None:
    """An empty piece shows that a process lives, not that tokens flow."""
    _, ask = house(_target("a", Scripted([0.05, Chunk()] * 50)))
    with pytest.raises(errors.TimedOut) as caught:
        await asyncio.wait_for(_text(ask()), 1)
    assert caught.value.phase == "first_token"


async def test_the_deadline_covers_all_attempts_together(house: Make) -> None:
    slow = [_target(name, Scripted([5.0])) for name in "abcdef"]
    _, ask = house(*slow)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(errors.Error):
        await _text(ask(ChatRequest.of("q", deadline_s=0.5)))
    assert loop.time() - started < 1.0


async def test_leaving_early_closes_the_backends_stream_and_frees_the_slot(house: Make) -> None:
    provider = Scripted([Chunk(text="x"), 60.0])
    manager, ask = house(_target("a", provider))
    async with aclosing(ask().chunks) as chunks:
        await anext(chunks)
        assert manager.targets["a"].replicas[0].busy == 1
    assert provider.closed == 1
    assert manager.targets["a"].replicas[0].busy == 0


async def test_cancelling_one_who_waits_for_a_slot_frees_its_place(house: Make) -> None:
    manager, ask = house(_target("a", Scripted([Chunk(text="x"), 60.0])))
    holding = ask().chunks
    await anext(holding)
    waiting = asyncio.create_task(_text(ask()))
    while not manager.admission.waiting:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(manager.admission.waiting) == 0
    await holding.aclose()


async def test_a_full_queue_overflows_to_the_next_target_and_is_told_when_none_is_left(house: Make) -> None:
    never = [Chunk(text="x"), 60.0]
    _, ask = house(_target("a", Scripted(never)), _target("b", Scripted(never)), queue=0)
    holding = [ask().chunks, ask().chunks]
    for chunks in holding:
        await anext(chunks)
    with pytest.raises(errors.QueueFull) as caught:
        await _text(ask())
    assert caught.value.retry_after_s >= 1
    for chunks in holding:
        await chunks.aclose()


async def test_what_is_unset_comes_from_the_target(house: Make) -> None:
    provider = Scripted([Chunk(text="x"), END])
    _, ask = house(_target("a", provider, sampling=Sampling(temperature=0.1, max_tokens=9)))
    await _text(ask(ChatRequest.of("q", sampling=Sampling(max_tokens=2))))
    assert provider.asked[0].sampling == Sampling(temperature=0.1, max_tokens=2)


async def test_the_first_tokens_time_counts_from_the_requests_arrival_over_all_attempts(house: Make) -> None:
    slow = Scripted([0.1, errors.Overloaded("full")])
    _, ask = house(_target("a", slow), _target("b", Scripted([Chunk(text="x"), END])))
    last = [chunk async for chunk in ask().chunks][-1]
    assert last.timings is not None
    assert last.timings.first_token_s >= 0.1


async def test_times_and_warnings_are_on_the_last_piece(house: Make) -> None:
    _, ask = house(_target("a", Scripted([Chunk(warnings=("top_k is ignored",)), 0.05, Chunk(text="x"), END])))
    reply = ask()
    last = [chunk async for chunk in reply.chunks][-1]
    assert last.timings is not None
    assert 0.04 < last.timings.first_token_s <= last.timings.total_s
    assert last.warnings == ("top_k is ignored",)
    assert reply.report.warnings == ["top_k is ignored"]


class OnlyBlocking(LLMProvider):
    def generate_answer(self, prompt: str) -> str:
        return prompt.upper()


async def test_a_provider_with_nothing_but_generate_answer_serves(house: Make) -> None:
    _, ask = house(_target("a", OnlyBlocking()))
    assert await _text(ask(ChatRequest.of("hello"))) == "HELLO"
    assert not OnlyBlocking().capabilities.streaming


async def test_a_house_that_is_closed_starts_nothing_again(house: Make) -> None:
    manager, ask = house(_target("a", Scripted([Chunk(text="x"), END])))
    await manager.aclose()
    with pytest.raises(errors.EngineError, match="is closed"):
        await _text(ask())


class Slow(Scripted):
    """An attached backend that loads its model, and says so, before it answers."""

    def __init__(self, acts: Sequence[Act], *, loading: bool) -> None:
        super().__init__(acts)
        self.loading = loading

    async def ahealth(self) -> Health:
        return Health(alive=True, ready=True, loading=self.loading)


async def test_a_backend_that_says_it_is_loading_is_given_the_time(house: Make) -> None:
    """The first token's limit is 0.2 s; the load takes 0.6 s."""
    _, ask = house(_target("a", Slow([0.6, Chunk(text="hi"), END], loading=True)))
    assert await _text(ask()) == "hi"


async def test_one_that_does_not_say_so_is_not(house: Make) -> None:
    _, ask = house(_target("a", Slow([0.6, Chunk(text="hi"), END], loading=False)))
    with pytest.raises(errors.TimedOut) as caught:
        await _text(ask())
    assert caught.value.phase == "first_token"


async def test_a_load_has_a_limit_too(house: Make) -> None:
    limits = TokenLimits(0.2, 0.2, load_s=0.5)
    _, ask = house(_target("a", Slow([9.0, END], loading=True), limits=limits))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(errors.TimedOut):
        await _text(ask())
    assert loop.time() - began < 2


async def test_a_prompt_too_long_goes_only_to_a_larger_window(house: Make) -> None:
    small, unknown, large = Scripted([END]), Scripted([END]), Scripted([Chunk(text="hi"), END])
    first = Scripted([errors.ContextTooLong("long", limit_tokens=4096)])
    _, ask = house(
        _target("a", first, window_tokens=4096),
        _target("b", small, window_tokens=2048),
        _target("c", unknown),
        _target("d", large, window_tokens=8192),
    )
    assert await _text(ask()) == "hi"
    assert small.asked == unknown.asked == []


async def test_a_rate_limited_target_is_waited_for_if_it_is_the_only_one(house: Make) -> None:
    limited = Scripted([errors.Overloaded("slow down", rate_limited=True, retry_after_s=0.1)])
    manager, ask = house(_target("a", limited))
    with pytest.raises(errors.Error):
        await _text(ask())
    assert len(limited.asked) >= 2
    assert manager.targets["a"].replicas[0].standing.breaker.admits(0)


async def test_fifty_mistakes_of_clients_open_no_breaker(house: Make) -> None:
    manager, ask = house(_target("a", Scripted([errors.InvalidRequest("no")])))
    for _ in range(50):
        with pytest.raises(errors.InvalidRequest):
            await _text(ask())
    assert manager.targets["a"].replicas[0].standing.objection(0) == ""


async def test_an_open_breaker_passes_a_target_over_and_says_so(house: Make) -> None:
    dead = Scripted([errors.ConnectFailed("refused", refused=True)])
    _, ask = house(_target("a", dead), _target("b", Scripted([Chunk(text="hi"), END])))
    for _ in range(2):
        await _text(ask())
    reply = ask()
    assert await _text(reply) == "hi"
    assert len(dead.asked) == 2
    (choice,) = reply.report.choices
    assert choice.outcome == "serve b"
    assert choice.objections[0][0] == "a"
    assert "its breaker is open" in choice.objections[0][1]


async def test_when_the_first_is_late_a_second_is_asked_and_the_loser_is_released(house: Make) -> None:
    late, quick = Scripted([0.15, Chunk(text="late"), END]), Scripted([Chunk(text="hi"), END])
    manager, ask = house(_target("a", late), _target("b", quick), hedge_s=0.03)
    reply = ask()
    assert await _text(reply) == "hi"
    assert reply.report.target == "b"
    assert late.closed == 1
    assert [choice.outcome for choice in reply.report.choices] == ["serve a", "serve b"]
    assert manager.targets["a"].replicas[0].standing.objection(0) == "", "to lose a race is no fault"


async def test_the_first_still_wins_a_race_that_it_wins(house: Make) -> None:
    slow = Scripted([5.0, END])
    _, ask = house(_target("a", Scripted([0.08, Chunk(text="hi"), END])), _target("b", slow), hedge_s=0.03)
    assert await _text(ask()) == "hi"
    assert slow.closed == 1


async def test_in_a_race_one_failure_is_not_the_end_and_two_are(house: Make) -> None:
    failing = Scripted([0.06, errors.StreamBroken("cut")])
    _, ask = house(_target("a", failing), _target("b", Scripted([0.1, Chunk(text="hi"), END])), hedge_s=0.03)
    reply = ask()
    assert await _text(reply) == "hi"
    assert [one.outcome for one in reply.report.attempts] == ["stream_broken", "ok"]
    broken = [_target(name, Scripted([0.06, errors.BadResponse(f"odd {name}")])) for name in "cd"]
    _, ask = house(*broken, hedge_s=0.03)
    with pytest.raises(errors.AllProvidersFailed, match=r"odd c.*odd d"):
        await _text(ask())


async def test_leaving_a_race_releases_both(house: Make) -> None:
    both = [Scripted([30.0, END]), Scripted([30.0, END])]
    manager, ask = house(_target("a", both[0]), _target("b", both[1]), hedge_s=0.02)
    asking = asyncio.create_task(_text(ask()))
    while not both[1].asked:
        await asyncio.sleep(0.005)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [provider.closed for provider in both] == [1, 1]
    assert [target.replicas[0].busy for target in manager.targets.values()] == [0, 0]
