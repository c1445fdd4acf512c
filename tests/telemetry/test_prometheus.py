"""`/metrics`: what Prometheus' own parser reads out of it is what happened, and no client can make it grow."""

import asyncio
import re
from contextlib import aclosing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from roundhouse.config import load_mapping
from roundhouse.core.chat import ChatRequest
from roundhouse.gateway import Gateway
from roundhouse.telemetry.buckets import Gaps
from roundhouse.telemetry.events import CLIENT_LEFT, RequestEnded
from roundhouse.telemetry.prometheus import Meter
from tests.fakes.http import Exchange, fake_server
from tests.fakes.openai import event


def read(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def labels(**given: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(given.items()))


async def test_a_served_request_is_in_every_number() -> None:
    """Through the whole house: the first target refuses connections, the second one answers.

    Each piece but the first is sent 10 ms or more after the one before it has arrived, so that on a busy machine, too,
    no two arrive together.
    """
    arrived = asyncio.Semaphore(0)

    async def answer(exchange: Exchange) -> None:
        await asyncio.sleep(0.05)
        await exchange.start()
        for place, text in enumerate(("One", " two", " three", " four")):
            if place:
                await arrived.acquire()
                await asyncio.sleep(0.01)
            await exchange.send(event(choices=[{"delta": {"content": text}}]))
        await exchange.send(event(choices=[{"delta": {}, "finish_reason": "stop"}]))
        await exchange.send(event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 4}))
        await exchange.send(b"data: [DONE]\n\n")

    async with fake_server(answer) as fake:
        dead = {"type": "openai", "name": "dead", "model": "m", "endpoint": "http://127.0.0.1:9"}
        alive = {"type": "openai", "name": "alive", "model": "m", "endpoint": fake.url}
        settings = load_mapping({"llm": {"providers": [dead, alive], "fallback_order": ["dead", "alive"]}})
        async with Gateway(settings) as gateway, aclosing(gateway.stream(ChatRequest.of("How long?")).chunks) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    arrived.release()
            found, numbers = read(gateway.metrics()), gateway.meter.numbers.summary()
    both = {"route": "default", "target": "alive"}
    assert found["roundhouse_requests_total", labels(**both, outcome="ok")] == 1
    assert found["roundhouse_failovers_total", labels(**both)] == 1
    assert found["roundhouse_failed_attempts_total", labels(target="dead", error="connect_failed")] >= 1
    assert found["roundhouse_tokens_total", labels(**both, kind="output")] == 4
    assert found["roundhouse_time_to_first_token_seconds_sum", labels(**both)] >= 0.05
    between = "roundhouse_time_between_tokens_seconds"
    assert found[f"{between}_count", labels(**both)] == 3
    assert 0.02 <= found[f"{between}_sum", labels(**both)] <= found["roundhouse_request_seconds_sum", labels(**both)]
    assert found[f"{between}_bucket", labels(**both, le="0.005")] == 0
    assert found["roundhouse_added_seconds_count", labels(**both)] == 1
    assert (
        0
        < found["roundhouse_added_seconds_sum", labels(**both)]
        < found["roundhouse_request_seconds_sum", labels(**both)]
    )
    assert found["roundhouse_active_requests", ()] == 0
    assert (numbers.requests, numbers.errors, numbers.output_tokens) == (1, 0, 4)
    assert numbers.p50_s is not None
    assert numbers.p50_s >= 0.05


def test_a_client_that_left_is_counted_and_is_no_failure() -> None:
    meter = Meter()
    meter.record(RequestEnded("1", "r", "", CLIENT_LEFT, 0.5))
    meter.record(RequestEnded("2", "r", "t", "timed_out", 0.5, failed=(("t", "timed_out"),)))
    found = read(meter.exposition())
    assert found["roundhouse_requests_total", labels(route="r", target="", outcome="client_left")] == 1
    assert (meter.numbers.summary().requests, meter.numbers.summary().errors) == (1, 1)


def test_gaps_fall_into_the_bucket_of_their_upper_bound() -> None:
    """As Prometheus has it: `le` is inclusive, and each bucket holds those below it too."""
    meter, gaps = Meter(), Gaps()
    for seconds in (0.001, 0.0011, 0.3, 7.0):
        gaps.add(seconds)
    for number in ("1", "2"):
        meter.record(RequestEnded(number, "r", "t", "ok", 8.0, gaps=gaps))
    found = read(meter.exposition())
    both, name = {"route": "r", "target": "t"}, "roundhouse_time_between_tokens_seconds"
    counts = {le: found[f"{name}_bucket", labels(**both, le=le)] for le in ("0.001", "0.0025", "0.2", "0.3", "+Inf")}
    assert counts == {"0.001": 2, "0.0025": 4, "0.2": 4, "0.3": 6, "+Inf": 8}
    assert found[f"{name}_sum", labels(**both)] == pytest.approx(2 * 7.3021)


def test_names_are_capped_and_what_is_beyond_is_counted_together() -> None:
    meter = Meter()
    for number in range(600):
        name = f"t{number}"
        meter.record(RequestEnded("1", "r", name, "ok", 0.1, failed=((name, "died"),)))
    found = read(meter.exposition())
    requests = {key: value for key, value in found.items() if key[0] == "roundhouse_requests_total"}
    assert sum(requests.values()) == 600
    assert len(requests) == 501
    failed = [key for key in found if key[0] == "roundhouse_failed_attempts_total"]
    assert len(failed) <= 501


def test_the_docs_name_every_metric_and_no_other() -> None:
    meter = Meter()
    state = {"active": 0, "waiting": 0, "replicas": [], "routes": {}, "memory": {"models": {}, "devices": []}}
    meter.watch(lambda: state)
    exported = {
        f"{family.name}_total" if family.type == "counter" else family.name for family in meter.registry.collect()
    }
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
    assert set(re.findall(r"`(roundhouse_\w+)`", page)) == exported


def test_what_has_not_happened_to_a_target_is_told_as_zero() -> None:
    """Prometheus sees an increase only of what it has seen before."""
    meter = Meter()
    meter.expect(["a"])
    found = read(meter.exposition())
    assert found["roundhouse_switches_total", labels(target="a", outcome="undone")] == 0
    assert found["roundhouse_evictions_total", labels(target="a")] == 0
    assert found["roundhouse_engine_loads_total", labels(target="a", outcome="ok")] == 0
