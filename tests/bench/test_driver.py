"""The load generator against a mock of known timing: what it measures is what the mock took."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from roundhouse.bench.arrivals import ClosedLoop, OpenLoop, Shape, plan
from roundhouse.bench.driver import Ask, Asked, closed_loop, open_loop
from roundhouse.bench.mock import Timing, mock_process
from roundhouse.bench.records import Record, latency
from roundhouse.bench.summary import Window, summarise, values_of
from roundhouse.core.chat import ChatRequest, Chunk, Chunks
from roundhouse.core.errors import Overloaded
from roundhouse.providers.base import Endpoint, LLMProvider
from roundhouse.providers.registry import create

QUESTION = ChatRequest.of("How long?")


@asynccontextmanager
async def asking(timing: Timing) -> AsyncIterator[Ask]:
    async with mock_process(timing) as url:
        client: LLMProvider = create("openai", Endpoint("mock", url, "mock"))
        try:
            yield lambda request: Asked(client.astream(request))
        finally:
            await client.aclose()


async def test_times_are_those_of_the_mock() -> None:
    """The medians: a machine that is busy otherwise makes the tail its own."""
    timing = Timing(ttft_s=0.2, itl_s=0.05, tokens=8)
    due = plan(OpenLoop(Shape.CONSTANT, 20, 60))
    async with asking(timing) as ask:
        records = await open_loop(ask, [QUESTION], [0] * 60, due, limit_s=30)
    assert [record.error for record in records if record.error] == []
    for name, true in (("ttft", 0.2), ("itl", 0.05), ("tpot", 0.05), ("e2e", timing.e2e_s)):
        values = sorted(values_of(records, name))
        assert values[len(values) // 2] == pytest.approx(true, rel=0.1), name
    assert {record.output_tokens for record in records} == {8}
    assert {record.text for record in records} == {"word " * 8}


async def test_a_stall_is_in_the_latency_of_all_who_were_due_meanwhile() -> None:
    """Coordinated omission: an open loop goes on sending, and counts from when each was due."""
    timing = Timing(ttft_s=0.01, itl_s=0.0, tokens=1, stall_at_s=1.0, stall_s=5.0)
    due = plan(OpenLoop(Shape.CONSTANT, 50, 400))
    async with asking(timing) as ask:
        records = await open_loop(ask, [QUESTION], [0] * 400, due, limit_s=30)
    told = summarise(records, Window(0, 8), {}, paced=True)
    assert told.metrics["ttft_sched"]["p99"]["value"] > 4.5
    assert told.metrics["ttft_sched"]["p50"]["value"] > 1.0


async def test_a_closed_loop_keeps_so_many_at_once_and_hides_the_stall() -> None:
    """Why the headline is of an open loop: two users who wait send nothing meanwhile."""
    timing = Timing(ttft_s=0.01, itl_s=0.0, tokens=1, stall_at_s=0.2, stall_s=1.0)
    async with asking(timing) as ask:
        records = await closed_loop(ask, [QUESTION], [0] * 400, ClosedLoop(2, 400), limit_s=60)
    late = [record for record in records if (latency(record, "ttft") or 0) > 0.5]
    assert len(records) == 400
    assert 1 <= len(late) <= 2


async def test_what_is_unanswered_in_the_end_is_cut_and_no_error() -> None:
    async def never() -> Chunks:
        await asyncio.Event().wait()
        yield Chunk("x")

    records = await open_loop(lambda request: Asked(never()), [QUESTION], [0, 0], [0.0, 0.01], limit_s=0.05)
    assert [record.cut for record in records] == [True, True]
    told = summarise(records, Window(0, 1), {"ttft": 1.0}, paced=True)
    assert (told.cut, told.error_rate, told.attainment) == (2, 0.0, None)


async def test_a_refusal_is_an_error_by_its_code_and_a_missed_slo() -> None:
    async def refused() -> Chunks:
        raise Overloaded("not now")
        yield Chunk("x")

    records = await open_loop(lambda request: Asked(refused()), [QUESTION], [0, 0], [0.0, 0.01], limit_s=1)
    told = summarise(records, Window(0, 1), {"ttft": 1.0}, paced=True)
    assert (told.errors, told.error_rate, told.goodput, told.attainment) == ({"overloaded": 2}, 1.0, 0.0, 0.0)


async def test_a_piece_without_content_does_not_stop_the_clock() -> None:
    """Role-only and empty frames come first from many a backend; reasoning is content."""

    async def slow() -> Chunks:
        yield Chunk("")
        await asyncio.sleep(0.05)
        yield Chunk(reasoning="hm")
        yield Chunk("x", finish_reason="stop")

    (record,) = await open_loop(lambda request: Asked(slow()), [QUESTION], [0], [0.0], limit_s=1)
    assert (latency(record, "ttft") or 0) >= 0.05


def test_tpot_is_undefined_for_one_token_and_such_a_request_is_on_neither_side_of_an_slo() -> None:
    one = Record(0, 0.0, sent=0.0, first=0.1, end=0.1, output_tokens=1)
    two = Record(0, 0.0, sent=0.0, first=0.1, end=0.3, output_tokens=2)
    assert latency(one, "tpot") is None
    assert latency(two, "tpot") == pytest.approx(0.2)
    told = summarise([one, two], Window(0, 1), {"tpot": 0.25}, paced=True)
    assert (told.goodput, told.attainment) == (1.0, 1.0)


def test_a_late_generator_marks_the_run() -> None:
    late = [Record(0, at, sent=at + 0.05, first=at + 0.1, end=at + 0.2) for at in (0.0, 0.1, 0.2)]
    assert "late itself" in summarise(late, Window(0, 1), {}, paced=True).degraded
    assert summarise(late, Window(0, 1), {}, paced=False).degraded == ""
