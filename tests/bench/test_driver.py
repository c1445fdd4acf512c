"""The load generator against a mock of known timing: what it measures is what the mock took."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from roundhouse.bench import happenings as happening
from roundhouse.bench.arrivals import ClosedLoop, OpenLoop, Shape, plan
from roundhouse.bench.driver import Ask, Asked, closed_loop, open_loop
from roundhouse.bench.happenings import Happenings
from roundhouse.bench.mock import Timing, mock_process
from roundhouse.bench.records import Record, latency
from roundhouse.bench.selftest import selftest
from roundhouse.bench.subject import of_url
from roundhouse.bench.summary import Window, summarise
from roundhouse.bench.table import notes
from roundhouse.core.chat import ChatRequest, Chunk, Chunks
from roundhouse.core.errors import Overloaded
from roundhouse.providers.base import Endpoint, LLMProvider
from roundhouse.providers.registry import create
from roundhouse.telemetry.events import EngineDied, SwitchEnded
from tests.fakes.http import Exchange, fake_server

QUESTION = ChatRequest.of("How long?")


@asynccontextmanager
async def asking(timing: Timing) -> AsyncIterator[Ask]:
    async with mock_process(timing) as url:
        client: LLMProvider = create("openai", Endpoint("mock", url, "mock"))
        try:
            yield lambda request: Asked(client.astream(request))
        finally:
            await client.aclose()


async def test_percentiles_are_those_of_the_mock_within_two_percent() -> None:
    """By the mock's own clock, token by token. Long times and three tries, for a machine that is busy otherwise."""
    wrong: dict[str, float] = {}
    for _ in range(3):
        told = await selftest(30, 100, Timing(ttft_s=1.0, itl_s=0.2, tokens=4, spread=1.0))
        assert told.failed == 0
        shares = {f"{one.metric} P{one.percentile:g}": one.share for one in told.errors if one.share is not None}
        shares = {name: share for name, share in shares.items() if not name.startswith(("itl P9", "tpot P9"))}
        assert shares.keys() >= {"ttft P50", "ttft P95", "e2e P50", "e2e P95", "tpot P50", "itl P50"}
        assert "e2e P99" not in shares  # too few
        wrong = {name: share for name, share in shares.items() if abs(share) > 0.02}
        if not wrong:
            break
    assert wrong == {}


async def test_what_the_mock_says_is_what_is_recorded() -> None:
    async with asking(Timing(ttft_s=0.05, itl_s=0.01, tokens=8)) as ask:
        records = await open_loop(ask, [QUESTION], [0] * 5, [0.0] * 5, limit_s=30)
    assert {(record.output_tokens, record.pieces, record.error) for record in records} == {(8, 8, "")}
    assert {record.text for record in records} == {"word " * 8}


@asynccontextmanager
async def of_script(script: Callable[[Exchange], Awaitable[None]]) -> AsyncIterator[Ask]:
    async with fake_server(script) as server, of_url(server.url, "openai", "m") as ask:
        yield ask


def _piece(text: str, finish: str | None = None) -> bytes:
    return (
        b"data: " + json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}]}).encode() + b"\n\n"
    )


async def test_an_error_body_with_a_success_status_and_an_error_in_the_middle_are_failures() -> None:
    async def refusing(exchange: Exchange) -> None:
        await exchange.whole({"error": {"message": "no"}}, 200)

    async def breaking(exchange: Exchange) -> None:
        await exchange.start()
        await exchange.send(_piece("a") + b'data: {"error": {"message": "out of memory"}}\n\n')

    for script in (refusing, breaking):
        async with of_script(script) as ask:
            (record,) = await open_loop(ask, [QUESTION], [0], [0.0], limit_s=5)
        assert (record.error, record.answered) == ("stream_broken", False)
        told = summarise([record], Window(0, 1), {"ttft": 5.0}, paced=True)
        assert (told.error_rate, told.goodput, told.metrics["ttft"]["n"]) == (1.0, 0.0, 0)


async def test_an_answer_without_usage_has_times_but_no_tokens_and_that_is_said() -> None:
    async def uncounted(exchange: Exchange) -> None:
        await exchange.start()
        await exchange.send(_piece("a") + _piece("b", "stop") + b"data: [DONE]\n\n")

    async with of_script(uncounted) as ask:
        (record,) = await open_loop(ask, [QUESTION], [0], [0.0], limit_s=5)
    told = summarise([record], Window(0, 1), {}, paced=True)
    assert (told.answered, told.uncounted, told.output_tokens_per_s, told.pieces_per_token) == (1, 1, 0.0, None)
    assert (told.metrics["ttft"]["n"], told.metrics["tpot"]["n"]) == (1, 0)
    assert any("without a count of their tokens" in note for note in notes(told))


async def test_several_tokens_in_a_piece_are_told_apart_from_single_ones() -> None:
    def chunky(number: int) -> Record:
        return Record(0, float(number), float(number), number + 0.1, number + 0.9, (0.8,), 9, 20, pieces=2)

    told = summarise([chunky(number) for number in range(10)], Window(0, 10), {}, paced=True)
    assert told.pieces_per_token == pytest.approx(0.1)
    assert "10.0 tokens come in a piece: itl is between pieces, tpot between tokens" in list(notes(told))


async def test_a_fault_of_the_client_is_a_failure_and_no_answer() -> None:
    async def faulty() -> Chunks:
        yield Chunk("x")
        raise KeyError("a fault of ours")

    (record,) = await open_loop(lambda request: Asked(faulty()), [QUESTION], [0], [0.0], limit_s=1)
    assert (record.error, record.answered) == ("KeyError", False)


def test_a_server_that_falls_behind_answers_fewer_a_second_than_it_is_asked() -> None:
    """Twenty a second are asked, ten answered; the last of 200 comes ten seconds after all were sent."""
    records = [Record(0, at / 20, at / 20, (at + 1) / 10 - 0.05, (at + 1) / 10, output_tokens=10) for at in range(200)]
    told = summarise(records, Window(0, 10), {}, paced=True)
    assert told.offered_per_s == pytest.approx(20)
    assert told.requests_per_s == pytest.approx(10)
    assert told.output_tokens_per_s == pytest.approx(100, rel=0.02)
    assert (told.answered, told.late) == (200, 100)
    assert any("fell behind" in note for note in notes(told))


def test_tokens_count_by_the_part_of_the_answer_that_lies_in_the_window() -> None:
    record = Record(0, 0.0, 0.0, 1.0, 3.0, output_tokens=20)
    told = summarise([record], Window(0, 2), {}, paced=True)
    assert told.output_tokens_per_s == pytest.approx(5)  # ten of them, in two seconds


async def test_what_happens_to_engines_is_noted_with_its_time() -> None:
    happenings = Happenings()
    begun = time.monotonic() - 10
    happenings.note(SwitchEnded("blue", "ok", 2.0, 0.0))
    happenings.note(EngineDied("red", "died"))
    found = happenings.since(begun)
    assert [one.what for one in found] == [
        "switch to blue began", "switch to blue done", "an engine of red died (died)",
    ]  # fmt: skip
    assert [one.at for one in found] == pytest.approx([8, 10, 10], abs=1)
    assert happenings.since(time.monotonic() + 1) == []


def _state(engine: str, *switches: str) -> dict[str, Any]:
    return {
        "replicas": [{"replica": "red", "engine": engine}],
        "switches": [{"id": f"s{number}", "target": "blue", "state": state} for number, state in enumerate(switches)],
    }


async def test_a_server_of_ours_is_watched_and_another_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happening, "_LOOK_S", 0.01)
    states = iter([_state("ready"), _state("ready", "warming"), _state("failed", "done"), _state("failed", "done")])
    over = asyncio.Event()

    monkeypatch.setattr(happening, "_ANSWER_S", 2.0)
    slow = iter([False, True])

    async def ours(exchange: Exchange) -> None:
        assert exchange.headers["authorization"] == "Bearer key-of-an-operator"
        if next(slow, False):  # once it is too busy to tell
            await exchange.gone.wait()
        elif (state := next(states, None)) is None:
            over.set()
            await exchange.whole({"error": {}}, 500)
        else:
            await exchange.whole(state)

    async def stranger(exchange: Exchange) -> None:
        over.set()
        await exchange.whole({"hello": 1})

    for script, whats in ((ours, ["switch to blue: warming", "switch to blue: done", "red: failed"]), (stranger, [])):
        over.clear()
        happenings, begun = Happenings(), time.monotonic()
        async with fake_server(script) as server, happenings.watching(f"{server.url}/v1", "key-of-an-operator"):
            await over.wait()
        assert [one.what for one in happenings.since(begun)] == whats


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
