"""An operator at the terminal changes what a running server serves."""

import asyncio
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openai

from tests.forge import run
from tests.server.conftest import Served

Serving = Callable[..., AbstractContextManager[Served]]
TWO = """
llm:
  providers:
    - {type: llamacpp, name: one, model: demo, n_ctx: 512}
    - {type: llamacpp, name: two, model: demo, n_ctx: 512}
  fallback_order: [one]
"""


def _root(server: Served) -> str:
    return server.url.removesuffix("/v1")


def _state(server: Served) -> dict[str, Any]:
    with urllib.request.urlopen(_root(server) + "/admin/state", timeout=10) as response:
        state: dict[str, Any] = json.load(response)
        return state


def _post(server: Served, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(_root(server) + path, data=body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def test_a_switch_at_the_terminal_under_streaming_clients(serving: Serving, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(TWO)
    with serving(config) as server:
        client = openai.AsyncOpenAI(base_url=server.url, api_key="none")
        going, served = True, []

        async def ask() -> None:
            while going:
                stream = await client.chat.completions.create(
                    model="default", messages=[{"role": "user", "content": "Hello."}], stream=True, max_tokens=20
                )
                reasons = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
                assert reasons[-1] in ("stop", "length")
                served.append(reasons[-1])

        clients = [asyncio.create_task(ask()) for _ in range(4)]
        while len(served) < 8:
            await asyncio.sleep(0.01)
        ended = await asyncio.to_thread(run, "switch", "default", "two", "--url", server.url)
        going = False
        await asyncio.gather(*clients)
        await client.close()
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith("route default: one -> two: done in ")
        assert "side by side" in ended.stdout
        assert _state(server)["routes"]["default"]["targets"] == [["two"]]


def test_orders_and_refusals(serving: Serving, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(TWO)
    with serving(config) as server:
        url = ("--url", server.url)
        assert run("load", "one", *url).stdout == "one is loaded\n"
        listed = run("ps", *url).stdout.splitlines()
        assert "ready" in listed[1]
        assert "cold" in listed[2]
        assert run("unload", "one", *url).returncode == 0
        ended = run("load", "three", *url)
        assert (ended.returncode, ended.stderr) == (1, 'roundhouse: there is no target "three"; there are one, two\n')
        ended = run("switch", "default", "two", "--expect", "Queen of Sheba", *url)
        assert ended.returncode == 1
        assert "which does not contain 'Queen of Sheba'" in ended.stderr
        told = json.loads(run("switch", "default", "two", "--json", *url).stdout)
        assert (told["state"], told["error"]) == ("done", "")
        assert run("switch", "default", "two", "--canary", "5", "--for", "soon", *url).returncode == 2
        for path, body in (("/admin/switch", b"{"), ("/admin/switch", b'{"route": "default"}'), ("/admin/load", b"[]")):
            status, answer = _post(server, path, body)
            assert status == 400
            assert "body cannot be read" in answer["error"]["message"]
        status, answer = _post(server, "/admin/switch", b'{"route": "default", "target": "one", "wait": true}')
        assert (status, answer["state"]) == (200, "done")


def test_the_configuration_is_read_again_by_command_by_signal_and_by_itself(serving: Serving, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(TWO + "server: {watch: true}\n")
    with serving(config) as server:
        assert server.process.stderr is not None
        assert "demo model" in server.process.stderr.readline()
        config.write_text(TWO.replace("name: two", "name: three") + "server: {watch: true}\n")
        assert server.process.stderr.readline() == "reload: added: three; removed: two\n"
        assert {row["target"] for row in _state(server)["replicas"]} == {"one", "three"}
        config.write_text(TWO.replace("n_ctx", "n_ctxx") + "server: {watch: true}\n")
        said = [server.process.stderr.readline() for _ in range(3)]
        assert "n_ctxx" in said[0]
        assert "did you mean n_ctx" in said[0]
        assert said[2] == "reload: nothing has changed\n"
        ended = run("reload", "--url", server.url)
        assert ended.returncode == 1
        assert "n_ctxx" in ended.stderr
        os.kill(server.process.pid, signal.SIGHUP)
        assert "n_ctxx" in server.process.stderr.readline()
        assert {row["target"] for row in _state(server)["replicas"]} == {"one", "three"}
