"""A running cluster goes by a changed configuration: no request fails, and what dies afterwards comes back by it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.cluster.conftest import Client, Outcome, Running, free_port
from tests.cluster.processes import MARK, end

pytest.importorskip("ray", reason="Ray is not installed here; run make test-ray")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(400)]
OTHER = "name: other, n_threads: 1, n_ctx: 1024"
ASLEEP = "    - {type: llamacpp, model: demo, name: asleep, n_threads: 1, replicas: {min: 0, max: 1}, ttl: 2}\n"
ADDED = "    - {type: llamacpp, model: demo, name: added, n_threads: 1, n_ctx: 768}\n"


@pytest.fixture
async def held(running: Running, client: Client) -> AsyncIterator[Running]:
    """There is a command that holds the file, as `roundhouse serve --cluster` does; in the end it says what it did."""
    from roundhouse.cluster.reader import Reader

    reader, text = Reader(running.settings), running.config.read_text()
    answering = asyncio.create_task(reader.answer())
    yield running
    running.config.write_text(text)
    told = await reader.reloaded()
    await _over(client, told["switches"])
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)


async def _over(client: Client, switches: list[str]) -> list[dict[str, Any]]:
    """How they ended."""
    ended: list[dict[str, Any]] = []

    async def over() -> bool:
        ended.clear()
        for number in switches:
            async with client.http.get(f"{client.url}/admin/switch/{number}") as response:
                ended.append(await response.json())
        return all(one["over"] for one in ended)

    await client.until(over)
    return ended


async def test_targets_come_change_and_go_under_load_and_what_dies_then_comes_back_by_it(
    held: Running, client: Client
) -> None:
    """A switched route stays switched; it is what the file says of it that has not changed."""
    status, told = await client.order("switch", route="switched", target="other", wait=True)
    assert (status, told["state"]) == (200, "done"), told
    outcomes: list[Outcome] = []
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as clients:
        for route in ("default", "switched", "switched"):
            clients.create_task(client.load(route, outcomes, ended))
        text = held.config.read_text().replace(OTHER, "name: other, n_threads: 1, n_ctx: 1536")
        text = text.replace(ASLEEP, ADDED).replace("seldom: [asleep]", "fresh: [added]")
        held.config.write_text(text.replace("server: {", "server: {connections: 4000, "))
        status, told = await client.order("reload")
        assert status == 200, told
        assert (told["added"], told["removed"], told["exchanged"]) == (["added"], ["asleep"], ["other"])
        assert told["at_the_next_start"] == ["server.connections"]
        (switch,) = await _over(client, told["switches"])
        assert (switch["error"], switch["mode"]) == ("", "side by side")
        before = len(outcomes)
        while len(outcomes) < before + 12:
            await asyncio.sleep(0.05)
        ended.set()
    assert [one for one in outcomes if one.error or not one.finished] == []
    assert (await client.ask("fresh")).finished
    assert (await client.ask("seldom")).error.startswith("404")
    state = await client.state()
    assert state["routes"]["switched"]["targets"] == [["other"]]
    assert {row["target"] for row in state["replicas"]} == {"demo", "other", "broken", "added", "slow"}
    status, told = await client.order("reload")
    assert (status, told["added"], told["exchanged"], told["switches"]) == (200, [], [], [])

    engines = {one.pid for one in held.processes("llamacpp_worker")}
    for what in ("owner", "entrance"):
        held.processes(f"ray::ServeReplica:roundhouse:{what}")[0].kill()
    known = set(state["entrances"])

    async def back() -> bool:
        try:
            there = set((await client.state())["entrances"])
        except aiohttp.ClientError:
            return False
        return len(there) == 3 and there != known

    await client.until(back)
    outcomes = await asyncio.gather(*(client.ask("fresh", f"Again {number}") for number in range(12)))
    assert [one for one in outcomes if one.error or not one.finished] == []
    assert (await client.state())["routes"]["switched"]["targets"] == [["other"]]
    assert {one.pid for one in held.processes("llamacpp_worker")} == engines
    status, told = await client.order("reload")
    assert (status, told["added"], told["switches"]) == (200, [], []), told
    status, told = await client.order("switch", route="switched", target="demo", wait=True)
    assert (status, told["state"]) == (200, "done"), told


async def test_what_cannot_be_served_is_told_and_the_old_serves_on(held: Running, client: Client) -> None:
    """A file with a fault, at once; a model that does not start, when that is known."""
    good = held.config.read_text()
    held.config.write_text(good.replace("limits: {load: 60}", "limits: {laod: 60}"))
    status, told = await client.order("reload")
    assert status >= 400
    assert "laod" in json.dumps(told)
    status, told = await client.order("switch", route="switched", target="other", wait=True)
    assert status == 200, told
    text = good.replace("model: demo, " + OTHER, "model: missing.gguf, " + OTHER)
    assert text != good
    held.config.write_text(text)
    status, told = await client.order("reload")
    assert (status, told["exchanged"]) == (200, ["other"])
    (switch,) = await _over(client, told["switches"])
    assert "missing.gguf" in switch["error"]
    outcomes = await asyncio.gather(*(client.ask("switched", f"Still {number}") for number in range(9)))
    assert [one for one in outcomes if one.error or not one.finished] == []
    status, told = await client.order("switch", route="switched", target="demo", wait=True)
    assert (status, told["state"]) == (200, "done"), told


async def test_the_command_reads_its_file_again_by_signal_and_order_and_ends_all_with_itself() -> None:
    home = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))  # sockets have short names only
    mark, port = secrets.token_hex(8), free_port()
    first = "{type: llamacpp, model: demo, name: one, n_threads: 1}"
    config = home / "c.yaml"
    alone = f"llm: {{providers: [{first}]}}\nserver: {{port: {port}}}\n"
    config.write_text(alone)
    named = {"RAY_TMPDIR": str(home), "XDG_STATE_HOME": str(home / "state"), MARK: mark}
    command = ("-m", "roundhouse", "serve", "--cluster", "ray://local", "--config", str(config))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env={**os.environ, **named},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        first_line = await process.stdout.readline()
        assert first_line.startswith(b"listening on "), await process.stderr.read()
        config.write_text(config.read_text().replace(first, f"{first}, {first.replace('one', 'two')}"))
        process.send_signal(signal.SIGHUP)
        while not (said := (await process.stderr.readline()).decode()).startswith("reload: "):
            assert said
        assert said == "reload: added: two\n"
        config.write_text(config.read_text().replace("type:", "typo:"))
        process.send_signal(signal.SIGHUP)
        while "nothing has changed" not in (said := (await process.stderr.readline()).decode()):
            assert said
        async with aiohttp.ClientSession() as http:
            client = Client(f"http://127.0.0.1:{port}", http)
            assert (await client.ask("two", max_tokens=5)).finished
            config.write_text(alone)
            status, told = await client.order("reload")
            assert (status, told["removed"]) == (200, ["two"])
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        end(mark)
        shutil.rmtree(home, ignore_errors=True)
