"""A running house takes over another configuration: validated first, exchanged without a lost request."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from roundhouse.config import Settings, load_mapping
from roundhouse.core.chat import ChatRequest, Sampling, collect
from roundhouse.core.errors import ConfigError, Error, InvalidRequest, ModelNotFound
from roundhouse.gateway import Gateway
from roundhouse.gateway.reload import Change, compare

REQUEST = ChatRequest.of("Hello.", sampling=Sampling(max_tokens=8))
LONG = ChatRequest.of("Hello.", sampling=Sampling(max_tokens=150), extra={"ignore_eos": True})


def _settings(
    *names: str, order: list[str] | None = None, limits: dict[str, Any] | None = None, **changes: Any
) -> Settings:
    providers = [{"type": "llamacpp", "name": name, "model": "demo", "n_ctx": 256, **changes} for name in names]
    llm = {"providers": providers, **({"fallback_order": order} if order else {})}
    return load_mapping({"llm": llm, "limits": limits or {}})


class File:
    """What the configuration's file holds now."""

    def __init__(self, settings: Settings) -> None:
        self.settings: Settings | Exception = settings

    def read(self) -> Settings:
        if isinstance(self.settings, Exception):
            raise self.settings
        return self.settings


def _house(file: File) -> Gateway:
    return Gateway(file.read(), file.read)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_what_differs_is_told_apart() -> None:
    old = _settings("a", "b", "c")
    new = load_mapping(
        {
            "llm": {
                "providers": [
                    {"type": "llamacpp", "name": "a", "model": "demo", "n_ctx": 512},
                    {"type": "llamacpp", "name": "b", "model": "demo", "n_ctx": 256, "ttl": "5m", "temperature": 0.5},
                    {"type": "llamacpp", "name": "d", "model": "demo"},
                ]
            },
            "server": {"port": 1, "origins": ["https://a.example"], "head_timeout": 3},
            "auth": {"keys": [{"name": "a", "key": "x" * 20}]},
        }
    )
    assert compare(old, old.targets, new) == Change(
        ("d",), ("c",), ("a",), ("b",), ("server.origins", "server.head_timeout", "auth"), ("server.port",)
    )
    assert compare(old, old.targets, old) == Change()


async def test_targets_and_routes_come_and_go() -> None:
    file = File(_settings("a"))
    async with _house(file) as gateway:
        await gateway.generate(REQUEST)
        engine = gateway._open_manager.targets["a"].replicas[0].engine
        file.settings = _settings("b", "c", order=["c"])
        done = gateway.reload()
        assert (done.change.added, done.change.removed) == (("b", "c"), ("a",))
        assert gateway.names() == {"default": ("c",), "b": ("b",), "c": ("c",)}
        assert (await gateway.generate(REQUEST)).report.target == "c"
        with pytest.raises(ModelNotFound):
            gateway.stream(ChatRequest.of("Hello.", model="a"))
        await _until(lambda: engine.pid is None)
        assert set(gateway.state()["memory"]["models"]) == {"c"}


async def test_a_request_of_a_removed_target_is_finished() -> None:
    file = File(_settings("a"))
    async with _house(file) as gateway, aclosing(gateway.stream(LONG).chunks) as chunks:
        first = await anext(chunks)  # not over before its reader is, however fast the model
        file.settings = _settings("b")
        gateway.reload()
        assert collect([first, *[chunk async for chunk in chunks]]).usage.completion_tokens == 150


async def test_a_removed_target_that_still_answers_is_ended_with_the_house() -> None:
    file = File(_settings("a"))
    async with _house(file) as gateway:
        chunks = gateway.stream(LONG).chunks
        await anext(chunks)
        (leaving,) = gateway._open_manager.targets["a"].replicas
        file.settings = _settings("b")
        gateway.reload()
        assert "a" not in gateway.names()
        assert leaving.engine.pid is not None
    assert leaving.engine.pid is None
    with suppress(Error):  # of a fast model all had come before
        _ = [chunk async for chunk in chunks]


async def test_a_model_that_was_to_be_exchanged_is_ended_with_the_house() -> None:
    file = File(_settings("a"))
    async with _house(file) as gateway:
        await gateway.generate(REQUEST)
        file.settings = _settings("a", n_parallel=8)
        gateway.reload()
        old, new = gateway._open_manager.room.replicas
        await _until(lambda: new.engine.pid is not None)
        assert old.warm
    assert (old.engine.pid, new.engine.pid) == (None, None)


async def test_a_changed_model_is_exchanged_under_load() -> None:
    file = File(_settings("a"))
    async with _house(file) as gateway:
        going, served = True, 0

        async def ask() -> None:
            nonlocal served
            while going:
                await gateway.generate(REQUEST)
                served += 1

        tasks = [asyncio.create_task(ask()) for _ in range(4)]
        await _until(lambda: served > 5)
        before = gateway._open_manager.targets["a"]
        file.settings = _settings("a", n_parallel=8)
        (number,) = gateway.reload().switches
        switch = gateway.switch_under(number)
        assert switch is not None
        await _until(lambda: switch.over)
        assert switch.error == ""
        seen = served
        await _until(lambda: served > seen + 5)
        going = False
        await asyncio.gather(*tasks)
        after = gateway._open_manager.targets["a"]
        assert after is not before
        assert after.replicas[0].slots == 8
        await _until(lambda: before.replicas[0].engine.pid is None)


async def test_a_changed_model_that_does_not_start_leaves_the_old_one_and_is_tried_again(tmp_path: Path) -> None:
    file = File(_settings("a"))
    async with _house(file) as gateway:
        await gateway.generate(REQUEST)
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(b"no model")
        file.settings = _settings("a", model=str(bad))
        for _ in range(2):
            (number,) = gateway.reload().switches
            switch = gateway.switch_under(number)
            assert switch is not None
            await _until(lambda: switch.over)  # noqa: B023
            assert "bad.gguf" in switch.error
            assert (await gateway.generate(REQUEST)).report.target == "a"


async def test_what_can_change_while_an_engine_runs_does_not_restart_it() -> None:
    file = File(_settings("a"))
    async with _house(file) as gateway:
        await gateway.generate(REQUEST)
        pid = gateway._open_manager.targets["a"].replicas[0].engine.pid
        file.settings = _settings("a", max_tokens=3, pin=True)
        assert gateway.reload().change.adjusted == ("a",)
        got = await gateway.generate(ChatRequest.of("Hello.", extra={"ignore_eos": True}))
        assert got.answer.usage.completion_tokens == 3
        assert gateway._open_manager.targets["a"].replicas[0].engine.pid == pid


async def test_a_bad_configuration_changes_nothing() -> None:
    file = File(_settings("a"))
    async with _house(file) as gateway:
        file.settings = ConfigError("line 3: no")
        with pytest.raises(ConfigError, match="line 3"):
            gateway.reload()
        file.settings = load_mapping({"llm": {"providers": [{"type": "openai", "name": "x"}]}})
        with pytest.raises(ConfigError, match="needs an endpoint"):
            gateway.reload()
        assert gateway.names() == {"default": ("a",), "a": ("a",)}
        await gateway.generate(REQUEST)


async def test_a_reload_during_a_switch_is_refused() -> None:
    file = File(_settings("a", "b", order=["a"]))
    async with _house(file) as gateway:
        switch = gateway.switch("default", "b")
        with pytest.raises(InvalidRequest, match="under way"):
            gateway.reload()
        await _until(lambda: switch.over)
        assert gateway.reload().change == Change()
        assert gateway.names()["default"] == ("a",), "the file rules again"


async def test_a_house_without_a_file_says_so() -> None:
    async with Gateway(_settings("a")) as gateway:
        with pytest.raises(InvalidRequest, match="no file"):
            gateway.reload()
