"""The hot switch: no request is lost, whatever goes wrong; what goes wrong is said, and what was is there again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from roundhouse.config import Settings, load_mapping
from roundhouse.core.chat import ChatRequest, Sampling, collect
from roundhouse.core.errors import InvalidRequest, ModelNotFound
from roundhouse.gateway import Gateway
from roundhouse.gateway.ways import ways_of
from roundhouse.resources import hardware
from roundhouse.routing.switch import SWITCH, Order, Switch
from roundhouse.routing.target import Check
from tests.conftest import DEMO, VARO, WHO, rag_query

REQUEST = ChatRequest.of(rag_query(VARO, WHO), sampling=Sampling(temperature=0.0, max_tokens=40))


def _entry(name: str, **changes: Any) -> dict[str, Any]:
    return {"type": "llamacpp", "name": name, "model": "demo", "n_ctx": 512, **changes}


def _settings(*entries: dict[str, Any], route: str = "old", **sections: Any) -> Settings:
    return load_mapping({"llm": {"providers": list(entries), "fallback_order": [route]}, **sections})


def _mib(settings: Settings) -> int:
    return (ways_of(settings.targets[0], settings, hardware.devices())[0].option.needs["cpu"] >> 20) + 1


class Clients:
    """Ask without a pause, and remember what came back."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.served: list[str] = []
        self.going = True

    async def ask(self) -> None:
        while self.going:
            got = await self._gateway.generate(REQUEST)
            assert (got.answer.text, got.answer.finish_reason) == (VARO, "stop")
            self.served.append(got.report.target)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def _under_load(gateway: Gateway, count: int = 6) -> AsyncIterator[Clients]:
    """Whatever a client sees that is no whole answer fails the test."""
    clients = Clients(gateway)
    tasks = [asyncio.create_task(clients.ask()) for _ in range(count)]
    try:
        await clients.until(lambda: len(clients.served) > 10 or any(task.done() for task in tasks))
        yield clients
    finally:
        clients.going = False
        await asyncio.gather(*tasks)


async def _over(switch: Switch) -> Switch:
    async with asyncio.timeout(60):
        while not switch.over:
            await switch.changed.wait()
    return switch


async def test_both_fit_and_the_new_one_takes_over_without_a_pause() -> None:
    async with Gateway(_settings(_entry("old"), _entry("new"))) as gateway, _under_load(gateway) as clients:
        switch = await _over(gateway.switch("default", "new"))
        assert (switch.error, switch.beside, switch.held_s) == ("", True, 0.0)
        before = len(clients.served)
        await clients.until(lambda: len(clients.served) > before + 10)
        assert set(clients.served[before:]) == {"new"}
        old, new = (gateway._open_manager.targets[name].replicas[0] for name in ("old", "new"))
        assert (old.warm, new.warm) == (False, True)


async def test_only_one_fits_and_requests_are_held_meanwhile() -> None:
    entries = (_entry("old"), _entry("new"))
    memory = {"memory_mib": int(1.5 * _mib(_settings(*entries)))}
    async with Gateway(_settings(*entries, resources=memory)) as gateway, _under_load(gateway) as clients:
        switch = await _over(gateway.switch("default", "new"))
        assert (switch.error, switch.beside) == ("", False)
        assert switch.held_s > 0
        before = len(clients.served)
        await clients.until(lambda: len(clients.served) > before + 10)
        assert set(clients.served[before:]) == {"new"}


@pytest.mark.parametrize("room", [3.0, 1.5], ids=["side by side", "one after the other"])
@pytest.mark.parametrize("fault", ["header", "tensors", "answer"])
async def test_a_bad_new_model_is_undone_and_the_old_one_serves_on(tmp_path: Path, room: float, fault: str) -> None:
    """A file that is none, one that is cut (found at once, and by the loading), and one that answers wrongly."""
    whole = (DEMO / "demo-f16.gguf").read_bytes()
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\xff" * 4096 if fault == "header" else whole[: len(whole) // 2])
    entries = (_entry("old"), _entry("new", model="demo" if fault == "answer" else str(bad)))
    memory = {"memory_mib": int(room * _mib(_settings(*entries)))}
    order = Order(check=Check("Who are you?", "the Queen of Sheba")) if fault == "answer" else Order()
    async with Gateway(_settings(*entries, resources=memory)) as gateway, _under_load(gateway) as clients:
        switch = await _over(gateway.switch("default", "new", order))
        assert switch.state.name == "FAILED"
        assert ("Queen of Sheba" if fault == "answer" else "bad.gguf") in switch.error
        before = len(clients.served)
        await clients.until(lambda: len(clients.served) > before + 10)
        assert set(clients.served) == {"old"}
        new = gateway._open_manager.targets["new"].replicas[0]
        assert not new.warm
        assert gateway.state()["routes"]["default"] == {"targets": [["old"]], "held": "", "canary": None}


async def test_a_new_model_that_dies_while_it_starts_is_undone(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho 'error: it is not my day' >&2\nexit 3\n")
    program.chmod(0o755)
    entries = (_entry("old"), _entry("new", executable=str(program)))
    async with Gateway(_settings(*entries)) as gateway, _under_load(gateway):
        switch = await _over(gateway.switch("default", "new"))
        assert "not my day" in switch.error


async def test_what_fits_in_no_case_is_refused_before_anything_is_touched() -> None:
    entries = (_entry("old"), _entry("new", n_ctx=32768, n_parallel=64))
    memory = {"memory_mib": int(1.5 * _mib(_settings(*entries)))}
    async with Gateway(_settings(*entries, resources=memory)) as gateway, _under_load(gateway):
        pid = gateway._open_manager.targets["old"].replicas[0].engine.pid
        switch = await _over(gateway.switch("default", "new"))
        assert "does not fit" in switch.error
        assert switch.held_s == 0
        assert gateway._open_manager.targets["old"].replicas[0].engine.pid == pid


async def test_an_old_target_that_stays_busy_is_not_cut_off_where_only_one_fits() -> None:
    entries = (_entry("old"), _entry("new"))
    memory = {"memory_mib": int(1.5 * _mib(_settings(*entries)))}
    async with Gateway(_settings(*entries, resources=memory)) as gateway:
        reply = gateway.stream(REQUEST)  # busy for as long as its reader takes, however fast the model is
        async with aclosing(reply.chunks) as chunks:
            first = await anext(chunks)
            switch = await _over(gateway.switch("default", "new", Order(drain_s=0.01)))
            assert "still busy" in switch.error
            assert collect([first, *[chunk async for chunk in chunks]]).text == VARO
        assert reply.report.target == "old"
        assert (await gateway.generate(REQUEST)).report.target == "old"


async def test_a_canary_that_does_well_takes_over() -> None:
    async with Gateway(_settings(_entry("old"), _entry("new"))) as gateway, _under_load(gateway) as clients:
        switch = await _over(gateway.switch("default", "new", Order(percent=30, for_s=1.0)))
        assert switch.error == ""
        assert switch.canary is not None
        assert min(switch.canary.counts.values()) > 0
        before = len(clients.served)
        await clients.until(lambda: len(clients.served) > before + 10)
        assert set(clients.served[before:]) == {"new"}


async def test_a_canary_that_fails_is_undone_and_no_client_sees_it(tmp_path: Path) -> None:
    """It answers the check, and fails from then on: its requests are answered by the old target."""
    died = tmp_path / "died"
    async with Gateway(_settings(_entry("old"), _entry("new"))) as gateway, _under_load(gateway) as clients:
        switch = gateway.switch("default", "new", Order(percent=50, for_s=30.0))
        while switch.state.name != "CANARY":
            await switch.changed.wait()
        new = gateway._open_manager.targets["new"].replicas[0]
        died.touch()
        engine = new.engine

        async def kill() -> None:
            while not switch.over:
                if engine.pid is not None and engine.ready is not None:
                    await engine.give_up("was ended by a test")
                await asyncio.sleep(0.01)

        killing = asyncio.create_task(kill())
        await _over(switch)
        killing.cancel()
        assert "fails more often" in switch.error
        before = len(clients.served)
        await clients.until(lambda: len(clients.served) > before + 10)
        assert set(clients.served[before:]) == {"old"}


async def test_a_canary_is_refused_where_only_one_fits() -> None:
    """It would hold everybody for as long as it is to last, and reach nobody."""
    entries = (_entry("old"), _entry("new"))
    memory = {"memory_mib": int(1.5 * _mib(_settings(*entries)))}
    async with Gateway(_settings(*entries, resources=memory)) as gateway, _under_load(gateway) as clients:
        switch = await _over(gateway.switch("default", "new", Order(percent=50, for_s=30.0)))
        assert "a canary needs old and new at the same time" in switch.error
        assert switch.held_s == 0
        before = len(clients.served)
        await clients.until(lambda: len(clients.served) > before + 10)
        assert set(clients.served) == {"old"}


async def test_a_canary_that_nobody_asked_proves_nothing() -> None:
    async with Gateway(_settings(_entry("old"), _entry("new"))) as gateway:
        switch = await _over(gateway.switch("default", "new", Order(percent=50, for_s=0.1)))
        assert "no request reached the canary" in switch.error


async def test_fallbacks_stay_behind_the_new_target() -> None:
    settings = load_mapping(
        {"llm": {"providers": [_entry("a"), _entry("b"), _entry("c")], "fallback_order": ["a", "b", "c"]}}
    )
    async with Gateway(settings) as gateway:
        await _over(gateway.switch("default", "c"))
        assert gateway.names()["default"] == ("c", "b")


async def test_a_switch_that_makes_no_sense_is_refused() -> None:
    async with Gateway(_settings(_entry("old"), _entry("new"))) as gateway:
        with pytest.raises(ModelNotFound, match="nothing"):
            gateway.switch("default", "nothing")
        with pytest.raises(ModelNotFound, match="nowhere"):
            gateway.switch("nowhere", "new")
        with pytest.raises(InvalidRequest, match="already"):
            gateway.switch("default", "old")
        first = gateway.switch("default", "new")
        with pytest.raises(InvalidRequest, match="under way"):
            gateway.switch("default", "new")
        await _over(first)


async def test_closing_the_house_during_a_switch_leaves_nothing_behind() -> None:
    async with Gateway(_settings(_entry("old"), _entry("new"))) as gateway:
        await gateway.generate(REQUEST)
        switch = gateway.switch("default", "new")
        await switch.changed.wait()
    assert switch.task is not None
    assert switch.task.done()


def test_the_docs_show_the_table() -> None:
    assert SWITCH.diagram() in (Path(__file__).parents[2] / "docs" / "switch.md").read_text()
