"""What a collector on loopback is told of requests, and that nobody waits for one that is slow or gone."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from roundhouse.config import Settings, load_mapping
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.core.errors import ConfigError, Error
from roundhouse.core.trace import TraceContext
from roundhouse.gateway import Gateway
from roundhouse.gateway.gateway import Reported
from roundhouse.gateway.trials import Caller
from roundhouse.telemetry.events import Followed, RequestEnded, RequestTraced
from roundhouse.telemetry.otlp import export
from roundhouse.telemetry.otlp.export import Export, Style
from roundhouse.telemetry.otlp.names import Backend
from tests.fakes.collector import Collector, attributes_of, collector
from tests.fakes.http import Exchange, FakeServer, fake_server
from tests.fakes.openai import USAGE, answering

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ASKED = ChatRequest.of("my password: hunter2-hunter2", sampling=Sampling(max_tokens=8, temperature=0.5))


async def _broken(exchange: Exchange) -> None:
    await exchange.whole({"error": {"message": "out of order"}}, 500)


@asynccontextmanager
async def _house(url: str, *scripts: Any, **otlp: Any) -> AsyncIterator[tuple[Gateway, list[FakeServer]]]:
    """A gateway with a target for each script, which tells a collector at `url`: all, once it is closed."""
    async with fake_server(scripts[0]) as first, fake_server(scripts[-1]) as last:
        servers = [first, last][: len(scripts)]
        targets = [{"type": "openai", "name": f"t{number}", "model": f"m{number}", "endpoint": f"{server.url}/v1"}
                   for number, server in enumerate(servers)]  # fmt: skip
        values = {"llm": {"providers": targets}, "telemetry": {"otlp": {"endpoint": url, **otlp}}}
        async with Gateway(load_mapping(values), exports=True) as gateway:
            yield gateway, servers


async def _asked(gateway: Gateway, request: ChatRequest = ASKED, **headers: str) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    reply = await gateway.converse(request, caller=Caller(headers=raw))
    async for _ in reply.chunks:
        pass


def _by_kind(found: Collector) -> tuple[Span, list[Span]]:
    (served,) = [span for span in found.spans if span.kind == Span.SPAN_KIND_SERVER]
    return served, sorted(
        (s for s in found.spans if s.kind == Span.SPAN_KIND_CLIENT), key=lambda s: s.start_time_unix_nano
    )


async def test_a_request_is_a_span_below_the_callers_with_a_span_for_each_attempt_below_it() -> None:
    with collector() as found:
        async with _house(found.url, _broken, answering) as (gateway, (broken, whole)):
            await _asked(gateway, traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=x")
    served, (failed, answered) = _by_kind(found)
    assert {span.trace_id.hex() for span in found.spans} == {TRACE}
    assert served.parent_span_id.hex() == PARENT
    assert failed.parent_span_id == answered.parent_span_id == served.span_id
    assert served.start_time_unix_nano <= failed.start_time_unix_nano <= failed.end_time_unix_nano
    assert failed.end_time_unix_nano <= answered.start_time_unix_nano <= answered.end_time_unix_nano
    assert answered.end_time_unix_nano <= served.end_time_unix_nano
    told = [server.seen[-1].headers["traceparent"] for server in (broken, whole)]
    assert told == [f"00-{TRACE}-{span.span_id.hex()}-01" for span in (failed, answered)]
    assert whole.seen[-1].headers["tracestate"] == "vendor=x"


async def test_spans_have_the_names_of_the_conventions_and_the_failed_one_its_error() -> None:
    with collector() as found:
        async with _house(found.url, _broken, answering) as (gateway, (_, whole)):
            await _asked(gateway)
    served, (failed, answered) = _by_kind(found)
    assert [span.name for span in (served, failed, answered)] == ["chat default", "chat m0", "chat m1"]
    said = attributes_of(served)
    usage = {
        "gen_ai.usage.input_tokens": USAGE["prompt_tokens"],
        "gen_ai.usage.output_tokens": USAGE["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 2,
    }
    asked = {"gen_ai.request.max_tokens": 8, "gen_ai.request.temperature": 0.5, "gen_ai.request.model": "default"}
    by = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.response.model": "m1"}
    assert said.items() >= {**usage, **asked, **by, "roundhouse.target": "t1", "roundhouse.outcome": "ok"}.items()
    assert said["gen_ai.response.finish_reasons"] == ["stop"]
    assert served.status.code == Status.STATUS_CODE_UNSET
    error = attributes_of(failed)
    assert (error["roundhouse.target"], error["error.type"]) == ("t0", error["roundhouse.outcome"])
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert "out of order" in failed.status.message
    assert attributes_of(answered).items() >= usage.items()
    assert attributes_of(answered)["server.port"] == int(whole.url.rsplit(":", 1)[1])
    assert found.resources[0]["service.name"] == "roundhouse"


async def test_a_request_that_nobody_could_answer_is_a_span_in_error() -> None:
    with collector() as found:
        async with _house(found.url, _broken) as (gateway, _):
            with pytest.raises(Error) as raised:
                await _asked(gateway)
    served, attempts = _by_kind(found)
    assert attributes_of(served)["error.type"] == raised.value.code
    assert attributes_of(served)["gen_ai.provider.name"] == "roundhouse"
    assert {span.status.code for span in (served, *attempts)} == {Status.STATUS_CODE_ERROR}


async def test_the_present_metrics_are_told_with_their_units_and_bounds() -> None:
    with collector() as found:
        async with _house(found.url, _broken, answering) as (gateway, _):
            await _asked(gateway)
    names = {metric.name for metric in found.metrics}
    assert names == {
        "gen_ai.client.inference.duration", "gen_ai.client.inference.time_to_first_chunk",
        "gen_ai.client.inference.usage.input_tokens", "gen_ai.client.inference.usage.output_tokens",
        "gen_ai.client.inference.usage.cache_read.input_tokens", "gen_ai.client.inference.operation.input_tokens",
        "gen_ai.client.inference.operation.output_tokens", "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token",
    }  # fmt: skip
    duration = found.named("gen_ai.client.inference.duration")
    assert duration.unit == "s"
    points = {attributes_of(point)["roundhouse.target"]: point for point in duration.histogram.data_points}
    assert "error.type" in attributes_of(points["t0"])
    assert attributes_of(points["t1"]).keys() == {
        "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model",
        "server.address", "server.port", "roundhouse.target",
    }  # fmt: skip
    assert list(points["t1"].explicit_bounds)[:3] == [0.01, 0.02, 0.04]
    (tokens,) = found.named("gen_ai.client.inference.usage.input_tokens").sum.data_points
    assert (tokens.as_int, attributes_of(tokens)["gen_ai.token.modality"]) == (USAGE["prompt_tokens"], "unknown")
    (first,) = found.named("gen_ai.server.time_to_first_token").histogram.data_points
    assert (first.count, attributes_of(first)["gen_ai.request.model"]) == (1, "default")


async def test_older_names_are_told_as_well_where_the_environment_opts_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http, gen_ai/dup")
    with collector() as found:
        async with _house(found.url, answering) as (gateway, _):
            await _asked(gateway)
    names = {metric.name for metric in found.metrics}
    assert {"gen_ai.client.inference.duration", "gen_ai.client.operation.duration"} <= names
    usage = {attributes_of(point)["gen_ai.token.type"]: point.sum
             for point in found.named("gen_ai.client.token.usage").histogram.data_points}  # fmt: skip
    assert usage == {"input": USAGE["prompt_tokens"], "output": USAGE["completion_tokens"]}
    assert all(attributes_of(span)["gen_ai.system"] == "openai" for span in found.spans)


async def test_what_is_not_sampled_is_no_span_but_counted_and_the_backend_knows() -> None:
    with collector() as found:
        async with _house(found.url, answering, sampling=0) as (gateway, (server,)):
            await _asked(gateway)
            await _asked(gateway, traceparent=f"00-{TRACE}-{PARENT}-01")
    assert server.seen[0].headers["traceparent"].endswith("-00")
    assert {span.trace_id.hex() for span in found.spans} == {TRACE}, "the caller has decided for its own"
    (point,) = found.named("gen_ai.server.request.duration").histogram.data_points
    assert point.count == 2


async def test_no_text_is_told_unless_that_is_switched_on() -> None:
    with collector() as found:
        async with _house(found.url, answering) as (gateway, _):
            await _asked(gateway)
    told = b"".join(span.SerializeToString() for span in found.spans)
    assert b"password" not in told
    assert b"You said" not in told


async def test_texts_that_are_switched_on_are_redacted_and_in_the_form_of_the_conventions() -> None:
    with collector() as found:
        async with _house(found.url, answering, content=True) as (gateway, _):
            await _asked(gateway)
            await gateway.generate(ASKED)
    spans = [span for span in found.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert len(spans) == 2
    for span in spans:
        said = attributes_of(span)
        assert said["gen_ai.input.messages"] == '[{"role":"user","parts":[{"type":"text","content":"my [secret]"}]}]'
        assert said["gen_ai.output.messages"].startswith(
            '[{"role":"assistant","parts":[{"type":"text","content":"You said'
        )
        assert "hunter2" not in said["gen_ai.output.messages"]


async def test_an_answer_that_its_client_left_is_no_error() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.start()
        await exchange.send(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
        await exchange.until_gone()

    with collector() as found:
        async with _house(found.url, endless) as (gateway, _):
            reply = await gateway.converse(ASKED, caller=Caller())
            await anext(reply.chunks)
            await reply.chunks.aclose()
    served, (attempt,) = _by_kind(found)
    assert attributes_of(served)["roundhouse.outcome"] == "client_left"
    assert attributes_of(attempt)["roundhouse.outcome"] == "given_up"
    assert {span.status.code for span in (served, attempt)} == {Status.STATUS_CODE_UNSET}


async def test_headers_of_the_configuration_go_with_every_export() -> None:
    with collector() as found:
        async with _house(found.url, answering, headers={"X-Key": "k-123"}) as (gateway, _):
            await _asked(gateway)
    assert len(found.headers) >= 2
    assert all(headers["x-key"] == "k-123" for headers in found.headers)


async def test_the_standard_variables_alone_name_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "answers of ours")
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        async with fake_server(answering) as server:
            target = {"type": "openai", "model": "m", "endpoint": f"{server.url}/v1"}
            async with Gateway(load_mapping({"llm": {"providers": [target]}}), exports=True) as gateway:
                await _asked(gateway)
            assert "traceparent" in server.seen[-1].headers
            monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
            async with Gateway(load_mapping({"llm": {"providers": [target]}}), exports=True) as gateway:
                await _asked(gateway)
            assert "traceparent" not in server.seen[-1].headers
    assert len(found.spans) == 2
    assert {resource["service.name"] for resource in found.resources} == {"answers of ours"}


async def test_a_house_without_a_collector_tells_backends_nothing_and_its_requests_are_not_followed() -> None:
    async with fake_server(answering) as server:
        target = {"type": "openai", "model": "m", "endpoint": f"{server.url}/v1"}
        async with Gateway(load_mapping({"llm": {"providers": [target]}}), exports=True) as gateway:
            await _asked(gateway, traceparent=f"00-{TRACE}-{PARENT}-01")
    assert "traceparent" not in server.seen[-1].headers


async def test_a_collector_that_is_gone_fails_no_request_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with _house("http://127.0.0.1:9", answering) as (gateway, _):
            answers = await asyncio.gather(*(gateway.generate(ASKED) for _ in range(5)))
    assert all(isinstance(one, Reported) and one.answer.text for one in answers)
    said = [record.message for record in caplog.records]
    assert len([line for line in said if line.startswith("spans do not reach a collector at http://127.0.0.1:9")]) == 1
    assert len(said) <= 2, "one line for spans, one for metrics"


async def test_a_collector_that_answers_nobody_makes_no_request_wait() -> None:
    with collector(answers=False) as found:
        async with _house(found.url, answering, interval=0.1) as (gateway, _):
            await gateway.generate(ASKED)
            await asyncio.to_thread(found.came.wait)  # an export is under way, and stays so
            assert (await gateway.generate(ASKED)).answer.text
            found.hold.set()
    assert len(found.spans) == 4


async def test_lost_and_delivered_spans_are_counted_at_metrics() -> None:
    with collector() as found:
        async with _house(found.url, answering) as (gateway, _):
            await gateway.generate(ASKED)
            text = gateway.metrics().decode()
    assert re.search(r'^roundhouse_otlp_spans_total{outcome="lost"} 0.0$', text, re.MULTILINE)
    assert "roundhouse_otlp_requests_lost_total 0.0" in text


async def _embedding(exchange: Exchange) -> None:
    """Two numbers for each text; none for one that says so."""
    texts = exchange.json["input"]
    if "broken" in texts:
        await exchange.whole({"error": {"message": "out of order"}}, 500)
        return
    await exchange.whole({"data": [{"index": at, "embedding": [1.0, 2.0]} for at in range(len(texts))]})


async def test_embeddings_are_told_as_the_conventions_have_them_and_a_shared_call_once() -> None:
    with collector() as found:
        async with _house(found.url, _embedding) as (gateway, (server,)):
            headers = [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())]
            await asyncio.gather(gateway.embed(["a", "b"], headers=headers), gateway.embed(["c"]))
            with pytest.raises(Error):
                await gateway.embed(["broken"])
    assert len(server.seen) == 2
    served = [span for span in found.spans if span.kind == Span.SPAN_KIND_SERVER]
    calls = [span for span in found.spans if span.kind == Span.SPAN_KIND_CLIENT]
    assert [(span.name, attributes_of(span)["roundhouse.outcome"]) for span in served] == [
        ("embeddings default", "ok"), ("embeddings default", "ok"), ("embeddings default", "provider_error"),
    ]  # fmt: skip
    assert (served[0].trace_id.hex(), served[0].parent_span_id.hex()) == (TRACE, PARENT)
    assert [span.parent_span_id for span in calls] == [served[0].span_id, served[2].span_id]
    said = {"gen_ai.operation.name": "embeddings", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m0",
            "gen_ai.embeddings.dimension.count": 2, "roundhouse.target": "t0"}  # fmt: skip
    assert attributes_of(calls[0]).items() >= said.items()
    assert attributes_of(served[0])["roundhouse.embeddings.texts"] == 2
    assert attributes_of(served[0])["roundhouse.embeddings.shared"] is True
    assert attributes_of(calls[1])["error.type"] == "provider_error"
    assert calls[1].status.code == Status.STATUS_CODE_ERROR
    duration = found.named("gen_ai.client.embeddings.duration")
    assert duration.unit == "s"
    assert sum(point.count for point in duration.histogram.data_points) == 2
    assert b'"a"' not in b"".join(span.SerializeToString() for span in found.spans)


async def test_a_reload_exchanges_the_collector_and_nothing_is_lost() -> None:
    """What the first was owed is delivered; from then on the second is told, then nobody, then the first again."""
    async with fake_server(answering) as server:
        target = {"type": "openai", "name": "t0", "model": "m0", "endpoint": f"{server.url}/v1"}

        def settings(**telemetry: Any) -> Settings:
            return load_mapping({"llm": {"providers": [target]}, "telemetry": telemetry})

        with collector() as one, collector() as two:
            wanted = [settings(otlp={"endpoint": one.url})]
            async with Gateway(wanted[0], lambda: wanted[0], exports=True) as gateway:
                await _asked(gateway)
                wanted[0] = settings(otlp={"endpoint": two.url, "headers": {"x-tenant": "a"}})
                assert gateway.reload().as_dict()["at_the_next_start"] == []
                await _asked(gateway)
                await _asked(gateway)
                wanted[0] = settings()
                gateway.reload()
                await _asked(gateway)
                assert b"roundhouse_otlp_spans" not in gateway.metrics()
                wanted[0] = settings(otlp={"endpoint": "no-url"})
                with pytest.raises(ConfigError, match="no-url"):
                    gateway.reload()
                wanted[0] = settings(otlp={"endpoint": one.url})
                gateway.reload()
                await _asked(gateway)
                assert gateway.metrics().count(b"\nroundhouse_otlp_requests_lost_total") == 1
    assert (len(one.spans), len(two.spans)) == (2 + 2, 4)
    assert {headers.get("x-tenant") for headers in two.headers} == {"a"}
    assert {headers.get("x-tenant") for headers in one.headers} == {None}


async def test_a_reload_away_from_a_collector_that_answers_nobody_makes_no_request_wait() -> None:
    async with fake_server(answering) as server:
        values = {"llm": {"providers": [{"type": "openai", "model": "m", "endpoint": f"{server.url}/v1"}]}}
        with collector(answers=False) as found:
            wanted = [load_mapping({**values, "telemetry": {"otlp": {"endpoint": found.url, "interval": 0.1}}})]
            async with Gateway(wanted[0], lambda: wanted[0], exports=True) as gateway:
                await gateway.generate(ASKED)
                await asyncio.to_thread(found.came.wait)
                wanted[0] = load_mapping(values)
                gateway.reload()
                assert (await gateway.generate(ASKED)).answer.text
                found.hold.set()


def _event(number: int) -> RequestTraced:
    trace = TraceContext(number + 1, number + 1)
    ended = RequestEnded(f"id-{number}", "answers", "small", "ok", 1.0, model="m")
    attempt = Followed(trace.child(), "small", "small", "m", 0.1, 0.8, "ok", first_token_s=0.2)
    return RequestTraced(ended, trace, (attempt,), Sampling(), finish_reason="stop")


def test_beyond_the_bound_of_the_queue_requests_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_MOST_WAITING", 3)
    monkeypatch.setattr(export, "_PERIOD_S", 60.0)
    with collector() as found:
        told = Export(Style(found.url), {"small": Backend("ollama")})
        for number in range(10):
            told.record(_event(number))
        told.close()
    assert len(found.spans) == 2 * 3
    (lost,) = [metric for metric in told.collect() if metric.name == "roundhouse_otlp_requests_lost"]
    assert lost.samples[0].value == 7


def test_an_event_that_cannot_be_told_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    with collector() as found:
        told = Export(Style(found.url), {})
        bad = RequestTraced(_event(0).ended, TraceContext(1, 1), (None,), Sampling())  # type: ignore[arg-type]
        told.record(bad)
        told.record(_event(1))
        told.close()
    assert len(found.spans) == 2
    assert "a request is missing in the export" in caplog.text


@given(
    st.lists(st.tuples(st.sampled_from([b"traceparent", b"tracestate", b"host"]), st.binary(max_size=80)), max_size=4)
)
def test_whatever_a_client_sends_as_its_trace_a_request_has_a_valid_span(headers: list[tuple[bytes, bytes]]) -> None:
    trace = _SHARED.begin(headers)
    assert 0 < trace.trace_id < 2**128
    assert 0 < trace.span_id < 2**64
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", trace.headers["traceparent"])
    assert "\n" not in trace.headers.get("tracestate", "")
    assert "\r" not in trace.headers.get("tracestate", "")


_SHARED = Export(Style("http://127.0.0.1:9"), {})
