"""A switch is kept over a restart and said; other servers follow it; a changed configuration has the last word."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from roundhouse.config import Settings, load_mapping
from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import Error
from roundhouse.gateway import Gateway
from roundhouse.routing.switch import Order
from tests.fakes.http import fake_server
from tests.fakes.openai import answering
from tests.postgres import PASSWORD, Postgres

REQUEST = ChatRequest.of("q")


def _settings(url: str, order: tuple[str, ...] = ("a", "b"), state: str = "", **changes: Any) -> Settings:
    entries = [{"type": "openai", "name": name, "model": f"m-{name}", "endpoint": url} for name in "abc"]
    sections = {"state": {"url": state, "password": PASSWORD}} if state else {}
    return load_mapping({"llm": {"providers": entries, "fallback_order": list(order)}, **sections, **changes})


def _led(gateway: Gateway) -> tuple[str, ...]:
    return gateway.names()["default"]


async def _switched(gateway: Gateway, target: str) -> None:
    switch = gateway.switch("default", target, Order())
    async with asyncio.timeout(20):
        while not switch.over:
            await switch.changed.wait()
    assert switch.error == ""


async def _eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)


async def test_a_restart_keeps_a_switch_and_says_so_until_the_route_is_configured_anew() -> None:
    async with fake_server(answering) as fake:
        async with Gateway(_settings(fake.url), keeps_routes=True) as gateway:
            assert gateway.notices == []
            await _switched(gateway, "c")
        async with Gateway(_settings(fake.url), keeps_routes=True) as gateway:
            assert _led(gateway) == ("c", "b")
            (notice,) = gateway.notices
            assert 'route "default" leads to c, b' in notice
            assert "not to a, b as configured" in notice
            assert (await gateway.generate(REQUEST)).report.target == "c"
        async with Gateway(_settings(fake.url, ("b", "a")), keeps_routes=True) as gateway:
            assert (_led(gateway), gateway.notices) == (("b", "a"), [])
        async with Gateway(_settings(fake.url)) as gateway:  # a program that uses the library
            assert _led(gateway) == ("a", "b")
        async with Gateway(_settings(fake.url), keeps_routes=True) as gateway:
            await _switched(gateway, "a")
            assert gateway.notices == []


async def test_a_reload_that_changes_the_route_wins_and_another_one_does_not() -> None:
    async with fake_server(answering) as fake:
        now = _settings(fake.url)
        async with Gateway(now, reread=lambda: now, keeps_routes=True) as gateway:
            await _switched(gateway, "c")
            now = _settings(fake.url, limits={"queue": 7})
            gateway.reload()
            assert _led(gateway) == ("c", "b")
            now = _settings(fake.url, ("a", "c"))
            gateway.reload()
            assert _led(gateway) == ("a", "c")


async def test_servers_of_other_configurations_keep_switches_of_their_own(tmp_path: Path) -> None:
    async with fake_server(answering) as fake:
        entries = [{"type": "openai", "name": name, "model": f"m-{name}", "endpoint": fake.url} for name in "abc"]
        values = {"llm": {"providers": entries, "fallback_order": ["a", "b"]}}
        one, two = load_mapping(values, str(tmp_path / "one.yaml")), load_mapping(values, str(tmp_path / "two.yaml"))
        async with Gateway(one, keeps_routes=True) as gateway:
            await _switched(gateway, "c")
        async with Gateway(two, keeps_routes=True) as gateway:
            assert _led(gateway) == ("a", "b")


async def test_a_damaged_file_of_records_keeps_nobody_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "no-state" / "roundhouse" / "routes.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database" * 100)
    async with fake_server(answering) as fake, Gateway(_settings(fake.url), keeps_routes=True) as gateway:
        await _switched(gateway, "c")
        assert _led(gateway) == ("c", "b")
    assert "routes lead where they were known to lead last" in caplog.text
    assert "will not be known after a restart" in caplog.text


class _Machines:
    """Gateways as on several machines: each has a state folder of its own, and the same database."""

    def __init__(self, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self._stack, self._monkeypatch, self._tmp_path = stack, monkeypatch, tmp_path

    async def open(self, number: int, settings: Settings, **more: Any) -> Gateway:
        self._monkeypatch.setenv("XDG_STATE_HOME", str(self._tmp_path / f"machine-{number}"))
        return await self._stack.enter_async_context(Gateway(settings, keeps_routes=True, **more))


@pytest.mark.postgres
async def test_other_servers_follow_a_switch_and_one_that_starts_later_too(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = postgres.fresh()
    async with fake_server(answering) as fake, AsyncExitStack() as stack:
        machines, settings = _Machines(stack, monkeypatch, tmp_path), _settings(fake.url, state=url)
        one, two = await machines.open(1, settings), await machines.open(2, settings)
        other = await machines.open(3, _settings(fake.url, ("b", "a"), state=url))
        await _switched(one, "c")
        await _eventually(lambda: _led(two) == ("c", "b"))
        await _switched(two, "b")
        await _eventually(lambda: _led(one) == ("b",))
        late = await machines.open(4, settings)
        assert _led(late) == ("b",)
        assert len(late.notices) == 1
        assert _led(other) == ("b", "a")


@pytest.mark.postgres
async def test_without_the_database_a_switch_works_and_is_followed_when_it_is_back(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.fresh()
    async with fake_server(answering) as fake, AsyncExitStack() as stack:
        machines, settings = _Machines(stack, monkeypatch, tmp_path), _settings(fake.url, state=url)
        one, two = await machines.open(1, settings), await machines.open(2, settings)
        postgres.stop()
        try:
            await _switched(one, "c")
            assert (await one.generate(REQUEST)).report.target == "c"
            assert one._following is not None
            await asyncio.gather(*(task for task in one._following._tasks if task is not one._following._following))
            late = await machines.open(1, settings)  # the same machine starts a server without the database
            assert _led(late) == ("c", "b")
            assert b"roundhouse_database_up 0.0" in late.metrics()
        finally:
            postgres.start()
        await _eventually(lambda: _led(two) == ("c", "b"))
        await _eventually(lambda: b"roundhouse_database_up 1.0" in late.metrics())
    assert PASSWORD not in caplog.text


@pytest.mark.postgres
async def test_a_breaker_that_opens_on_one_server_is_a_hint_to_the_others(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = postgres.fresh()
    async with fake_server(answering) as fake, AsyncExitStack() as stack:
        machines = _Machines(stack, monkeypatch, tmp_path)
        settings = _settings(fake.url, state=url)
        one, two = await machines.open(1, settings), await machines.open(2, settings)
        theirs = two._open_manager.targets["a"].replicas[0].standing.breaker
        breaker = one._open_manager.targets["a"].replicas[0].standing.breaker
        now = one._open_manager.clock()
        for _ in range(5):
            breaker.failed(breaker.begin(now), now, 0.5)
        await _eventually(lambda: theirs._hinted_until > now)
        assert (await two.generate(REQUEST)).report.target == "a"  # the probe has answered
        assert theirs._hinted_until < now
        assert (await one.generate(REQUEST)).report.target == "b"


def test_nothing_of_the_password_is_in_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Error) as caught:
        load_mapping({"llm": {"providers": []}, "state": {"url": "postgresql://u:hunter2secret@h:x/db"}})
    assert "hunter2secret" not in str(caught.value)
