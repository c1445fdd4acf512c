"""A target that becomes slower or worse: it is said, told to a webhook, kept over a restart, and acted upon."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from roundhouse.config import Settings, load_text
from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import ConfigError, Error, InvalidRequest, ModelNotFound
from roundhouse.gateway import Gateway
from roundhouse.gateway.drift import baselines_path
from roundhouse.gateway.webhook import Webhook
from roundhouse.telemetry.events import RequestEnded
from tests.fakes.http import Exchange, FakeServer, fake_server
from tests.fakes.openai import answering

LEARN = 100
SLOW_S = 0.4


class Backend:
    """Answers at once, or after `delay_s`, or not at all; with one token, so that there is no time between tokens to be
    slow in: on a busy machine those of a fake are chance.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.broken = False

    async def __call__(self, exchange: Exchange) -> None:
        await asyncio.sleep(self.delay_s)
        if self.broken:
            await exchange.whole({"error": {"message": "no"}}, status=500)
        else:
            await answering(exchange, output_tokens=1)


def _settings(servers: dict[str, FakeServer], drift: dict[str, Any], route: list[str]) -> Settings:
    providers = [{"type": "openai", "name": name, "model": name, "endpoint": one.url} for name, one in servers.items()]
    text = {
        "llm": {"providers": providers},
        "routes": {"answers": route},
        "telemetry": {"drift": {"baseline": 100, "slower": 3, "apart": "0s", **drift}},
        "breaker": {"failures": 1000, "share": 1, "least": 1000},
    }
    return load_text(json.dumps(text))


@asynccontextmanager
async def _house(
    drift: dict[str, Any] | None = None, names: str = "one", route: str = ""
) -> AsyncIterator[tuple[Gateway, dict[str, Backend]]]:
    backends = {name: Backend() for name in names.split()}
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(fake_server(one)) for name, one in backends.items()}
        settings = _settings(servers, drift or {}, (route or names).split())
        yield await stack.enter_async_context(Gateway(settings, watches=True)), backends


async def _ask(gateway: Gateway, count: int, target: str = "") -> list[str]:
    """Who answered each."""
    request = ChatRequest.of("Hello.", model=target or "answers")
    return [(await gateway.generate(request)).report.target for _ in range(count)]


def _slow(gateway: Gateway, target: str = "one") -> float:
    """Seconds that are slow for it: on a busy machine a request that was learned from may have taken long."""
    assert gateway.drifts is not None
    baseline = gateway.drifts._targets[target]["first_token_s"].baseline
    assert baseline is not None
    return max(SLOW_S, *(2 * one.limit * one.expected(100) for one in baseline.strata.values()))


def _states(gateway: Gateway) -> dict[tuple[str, str], str]:
    assert gateway.drifts is not None
    return {(one["target"], one["metric"]): one["state"] for one in gateway.drifts.standing()}


async def test_a_backend_that_becomes_slower_is_said_in_the_log_the_metrics_and_to_the_webhook(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: asyncio.Queue[Any] = asyncio.Queue()

    async def hook(exchange: Exchange) -> None:
        told.put_nowait(exchange.json)
        await exchange.whole({})

    async with fake_server(hook) as server:
        drift = {"webhook": f"{server.url}/token-canary", "webhook_hosts": ["127.0.0.1"]}
        async with _house(drift) as (gateway, backends):
            await _ask(gateway, LEARN)
            assert _states(gateway)["one", "first_token_s"] == "steady"
            backends["one"].delay_s = _slow(gateway)
            await _ask(gateway, 20)
            assert _states(gateway)["one", "first_token_s"] == "drifted"
            body = await asyncio.wait_for(told.get(), 10)
            metrics = gateway.metrics().decode()
            backends["one"].delay_s = 0.0
            await _ask(gateway, 130)
            again = await asyncio.wait_for(told.get(), 10)
            assert _states(gateway)["one", "first_token_s"] == "steady"
            assert 'roundhouse_drifted{metric="first_token_s",target="one"} 0.0' in gateway.metrics().decode()
    assert (body["event"], body["target"], body["metric"]) == ("drift", "one", "first_token_s")
    assert body["now"] > SLOW_S > body["usual"]
    assert "one has become slower: first token" in body["text"]
    assert again["event"] == "recovery"
    assert 'roundhouse_drifts_total{metric="first_token_s",target="one"} 1.0' in metrics
    assert 'roundhouse_drifted{metric="first_token_s",target="one"} 1.0' in metrics
    assert "one has become slower" in caplog.text
    assert "canary" not in caplog.text


async def test_prompts_that_become_longer_are_no_slower_target_and_a_cached_prompt_is_a_short_one() -> None:
    """By the tokens that were read, as the backend counted them: a request of 4,000, of which all but 100 were cached,
    is like one of 100.
    """

    def ended(first_token_s: float, tokens: int, cached: int = 0) -> RequestEnded:
        return RequestEnded("r", "answers", "one", "ok", 2.0, first_token_s=first_token_s, decoding_s=0.2,
                            input_tokens=tokens, output_tokens=21, cached_tokens=cached)  # fmt: skip

    async with _house({"slower": 1.25}) as (gateway, _):
        assert gateway.drifts is not None
        for number in range(LEARN + 500):
            gateway.drifts.record(ended(0.05 + 1e-6 * number, 100 + number % 20))
        for number in range(1000):
            gateway.drifts.record(ended(1.9 + 1e-6 * number, 4000 + number % 20))
        assert _states(gateway)["one", "first_token_s"] == "steady"
        for _ in range(60):
            gateway.drifts.record(ended(0.2, 4000, cached=3900))
        assert _states(gateway)["one", "first_token_s"] == "drifted"
        (told,) = [one for one in gateway.drifts.standing() if one["state"] == "drifted"]
        assert (told["usual"], told["now"]) == (pytest.approx(0.05, rel=0.1), pytest.approx(0.2))


async def test_failures_and_scores_are_watched_too() -> None:
    async with _house({"quality": ["correct"]}) as (gateway, backends):
        assert gateway.drifts is not None
        for _ in range(100):
            done = await gateway.generate(ChatRequest.of("Hello.", model="answers"))
            assert await gateway.feedback(done.report.request_id, "correct", 1.0) == []
        for _ in range(40):
            done = await gateway.generate(ChatRequest.of("Hello.", model="answers"))
            await gateway.feedback(done.report.request_id, "correct", 0.0)
        assert _states(gateway)["one", "correct"] == "drifted"
        assert _states(gateway)["one", "error"] == "steady"
        backends["one"].broken = True
        for _ in range(20):
            with pytest.raises(Error):
                await gateway.generate(ChatRequest.of("Hello.", model="answers"))
        assert _states(gateway)["one", "error"] == "drifted"
        with pytest.raises(InvalidRequest):  # a metric that is not watched, and no experiment
            await gateway.feedback(done.report.request_id, "other", 0.0)


async def test_what_a_caller_does_wrong_is_no_failure_of_the_target() -> None:
    async with _house() as (gateway, _):
        for _ in range(5):
            with pytest.raises(ModelNotFound):
                await gateway.generate(ChatRequest.of("Hello.", model="nobody"))
        await _ask(gateway, 1)
        assert gateway.drifts is not None
        errors = next(one for one in gateway.drifts.standing() if one["metric"] == "error")
        assert (errors["now"], errors["learned_of"]) == (0.0, 1)


async def test_what_is_usual_is_kept_over_a_restart_and_learned_anew_for_another_model() -> None:
    backend = Backend()
    async with fake_server(backend) as server:
        settings = _settings({"one": server}, {}, ["one"])
        async with Gateway(settings, watches=True) as gateway:
            await _ask(gateway, LEARN)
        async with Gateway(settings, watches=True) as gateway:
            await _ask(gateway, 1)
            assert _states(gateway)["one", "first_token_s"] == "steady"
            backend.delay_s = _slow(gateway)
            await _ask(gateway, 20)
            assert _states(gateway)["one", "first_token_s"] == "drifted"
            assert gateway.drifts is not None
            gateway.drifts.relearn("one")
            assert _states(gateway)["one", "first_token_s"] == "learning"
            with pytest.raises(ModelNotFound):
                gateway.drifts.relearn("none")
        other = json.loads(json.dumps({"llm": {"providers": [{"type": "openai", "name": "one", "model": "another"}]}}))
        other["llm"]["providers"][0]["endpoint"] = server.url
        other["telemetry"] = {"drift": {"baseline": 100, "slower": 3}}
        async with Gateway(load_text(json.dumps(other)), watches=True) as gateway:
            await _ask(gateway, 1, "one")
            assert _states(gateway)["one", "first_token_s"] == "learning"


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version": 1}', b'{"version": 9, "targets": {}}', b"\xff\x00", b"[]"]
)
async def test_a_broken_file_of_baselines_is_the_same_as_none(content: bytes) -> None:
    baselines_path().parent.mkdir(parents=True)
    baselines_path().write_bytes(content)
    async with _house() as (gateway, _):
        await _ask(gateway, LEARN)
        assert _states(gateway)["one", "first_token_s"] == "steady"


async def test_a_disk_that_takes_nothing_costs_no_request(caplog: pytest.LogCaptureFixture) -> None:
    baselines_path().parent.parent.mkdir(parents=True, exist_ok=True)
    baselines_path().parent.write_text("a file where a folder should be")
    async with _house() as (gateway, _):
        await _ask(gateway, LEARN)
        assert _states(gateway)["one", "first_token_s"] == "steady"
    assert caplog.records == [] or "cannot be kept" in caplog.text


async def test_others_are_asked_first_for_a_while_if_that_is_wanted() -> None:
    async with _house({"act": "avoid", "avoid_for": "1s"}, "one two") as (gateway, backends):
        assert set(await _ask(gateway, LEARN)) == {"one"}
        backends["one"].delay_s = _slow(gateway)
        served = await _ask(gateway, 30)
        assert served[0] == "one"
        assert served[-1] == "two"
        assert gateway.drifts is not None
        (told,) = [one for one in gateway.drifts.standing() if one["state"] == "drifted"]
        assert told["done"] == "others of its routes are asked first for 1 s"
        backends["one"].delay_s = 0.0
        async with asyncio.timeout(30):
            while _states(gateway)["one", "first_token_s"] == "drifted":
                await asyncio.sleep(0.05)
        assert set(await _ask(gateway, 3)) == {"one"}


async def test_the_last_target_is_asked_though_it_is_avoided() -> None:
    async with _house({"act": "avoid"}) as (gateway, backends):
        await _ask(gateway, LEARN)
        backends["one"].delay_s = _slow(gateway)
        assert set(await _ask(gateway, 15)) == {"one"}


async def test_a_recent_switch_is_undone_if_that_is_wanted() -> None:
    async with _house({"act": "roll_back"}, "one two", "one") as (gateway, backends):
        await _ask(gateway, LEARN, "two")
        switch = gateway.switch("answers", "two")
        assert switch.task is not None
        await switch.task
        backends["two"].delay_s = _slow(gateway, "two")
        await _ask(gateway, 15)
        async with asyncio.timeout(30):
            while (await _ask(gateway, 1)) != ["one"]:
                await asyncio.sleep(0.05)
        assert gateway.drifts is not None
        (told,) = [one for one in gateway.drifts.standing() if one["state"] == "drifted"]
        assert told["done"] == "answers is switched back to one (s2)"


async def test_where_there_was_no_switch_nothing_is_undone() -> None:
    async with _house({"act": "roll_back"}, "one two") as (gateway, backends):
        await _ask(gateway, LEARN)
        backends["one"].delay_s = _slow(gateway)
        assert set(await _ask(gateway, 15)) == {"one"}
        assert gateway.drifts is not None
        (told,) = [one for one in gateway.drifts.standing() if one["state"] == "drifted"]
        assert told["done"] == ""


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (429, 3), (404, 1), (302, 1)])
async def test_a_webhook_that_refuses_is_tried_again_only_where_that_may_help(
    status: int, tries: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole({}, status=status, location="http://127.0.0.1:1/")

    async with fake_server(script) as server:
        assert not await Webhook(f"{server.url}/canary", pause_s=0.001).post({"a": 1})
    assert len(server.seen) == tries
    assert f"the webhook at 127.0.0.1 was not told: status {status}" in caplog.text
    assert "canary" not in caplog.text


async def test_a_webhook_that_is_not_there_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert not await Webhook("http://127.0.0.1:9/canary", pause_s=0.001).post({})
    assert caplog.records[-1].levelno == logging.WARNING
    assert "canary" not in caplog.text


def test_a_webhook_at_a_host_that_is_not_named_is_refused(tmp_path: Path) -> None:
    text = """
        llm: {providers: [{type: openai, endpoint: "http://x"}]}
        telemetry: {drift: {webhook: "https://hooks.example.com/secret", webhook_hosts: [example.com]}}
    """
    with pytest.raises(ConfigError) as caught:
        load_text(text)
    assert "hooks.example.com is none of telemetry.drift.webhook_hosts" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_reload_that_ends_the_watch_or_changes_the_target_takes_its_warnings_back() -> None:
    backends = {"one": Backend(), "two": Backend()}
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(fake_server(one)) for name, one in backends.items()}
        wanted = [_settings(servers, {"act": "avoid"}, ["one", "two"])]
        gateway = await stack.enter_async_context(Gateway(wanted[0], lambda: wanted[0], watches=True))
        await _ask(gateway, LEARN)
        backends["one"].delay_s = _slow(gateway)
        assert (await _ask(gateway, 30))[-1] == "two"
        wanted[0] = _settings(servers, {"act": "avoid", "enabled": False}, ["one", "two"])
        gateway.reload()
        assert _states(gateway) == {}
        assert await _ask(gateway, 2) == ["one", "one"]
        assert 'roundhouse_drifted{metric="first_token_s",target="one"} 0.0' in gateway.metrics().decode()


async def test_of_requests_that_end_together_one_is_heard() -> None:
    """A pause of the machine delays all that run, once."""

    def ended(first_token_s: float, failed: tuple[tuple[str, str], ...] = ()) -> RequestEnded:
        return RequestEnded("r", "answers", "one", "ok", 2.0, first_token_s=first_token_s, failed=failed)

    async with _house({"apart": "1h"}, "one two") as (gateway, _):
        assert gateway.drifts is not None
        for _ in range(LEARN):
            gateway.drifts.record(ended(0.05))
            gateway.drifts.record(ended(0.05, (("two", "connect_failed"),)))
        told = {(one["target"], one["metric"]): one["learned_of"] for one in gateway.drifts.standing()}
    assert told == {("one", "error"): 1, ("one", "first_token_s"): 1, ("two", "error"): 1}
