"""Whoever relays an answer, one process decides, counts and knows; a process that dies takes only its own with it."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.forge import run
from tests.server.conftest import serve
from tests.workers.conftest import BODY, KEY, House, house, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

WHOLE = ("One two three", "stop")
TWO = """
llm:
  providers:
    - {type: llamacpp, name: one, model: demo, n_ctx: 512}
    - {type: llamacpp, name: two, model: demo, n_ctx: 512}
  fallback_order: [one]
"""


async def test_the_official_client_through_two_workers(here: House) -> None:
    here.held.go.set()

    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=here.served.url, api_key="none", max_retries=0) as client:
            hello: Any = BODY["messages"]
            whole = await client.chat.completions.create(model="default", messages=hello)
            assert whole.choices[0].message.content == WHOLE[0]
            assert whole.usage is not None
            assert whole.usage.total_tokens == 10
            stream = await client.chat.completions.create(model="default", messages=hello, stream=True)
            texts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
            assert "".join(texts) == WHOLE[0]
            assert [model.id async for model in client.models.list()] == ["default", "one"]

    await asyncio.gather(*(ask() for _ in range(8)))


async def test_streams_are_dealt_out_evenly_and_all_are_seen_by_the_owner(here: House) -> None:
    ok, tokens = (
        f'roundhouse_{name},route="default",target="one"}}'
        for name in ('requests_total{outcome="ok"', 'tokens_total{kind="output"')
    )
    before = await here.counted(ok), await here.counted(tokens)

    async def is_alone() -> bool:
        return sum(worker["connections"] for worker in await here.workers()) == 1

    await until(is_alone)  # what earlier tests have left is gone
    streams = await here.streams(8)
    state = await here.state()
    assert state["active"] == 8
    # By connections, of which there is one more: that of whoever looks.
    assert sorted(worker["connections"] for worker in state["workers"]) == [4, 5]
    assert sum(worker["requests"] for worker in state["workers"]) == 8
    assert "8/64" in (await asyncio.to_thread(_ps, here.served.url))
    here.held.go.set()
    assert await asyncio.gather(*streams) == [WHOLE] * 8
    await until(here.is_busy(0))
    assert (await here.counted(ok), await here.counted(tokens)) == (before[0] + 8, before[1] + 24)
    recent = (await here.client.get("/admin/decisions")).json()["decisions"][:8]
    assert [(one["target"], one["outcome"]) for one in recent] == [("one", "ok")] * 8


async def test_a_killed_worker_takes_only_its_own_and_is_started_again(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        streams = await here.streams(8)
        async with httpx.AsyncClient(base_url=here.client.base_url, timeout=30) as client:
            workers = (await client.get("/admin/state")).json()["workers"]
        before, lost = [worker["pid"] for worker in workers], workers[0]["requests"]
        assert 3 <= lost <= 5
        os.kill(before[0], signal.SIGKILL)
        here.client = httpx.AsyncClient(base_url=here.client.base_url, timeout=30)  # its connection may have died too

        async def are_left() -> bool:
            with contextlib.suppress(httpx.TransportError):  # it came to the dead one, which nobody knew of yet
                return bool(await here.is_busy(8 - lost)())
            return False

        await until(are_left)

        async def are_two() -> bool:
            return len(await here.workers()) == 2

        await until(are_two)
        here.held.go.set()
        ended = await asyncio.gather(*streams)
        assert sorted(ended) == sorted([("One", "")] * lost + [WHOLE] * (8 - lost))
        after = [worker["pid"] for worker in await here.workers()]
        assert before[0] not in after
        assert before[1] in after
        assert await asyncio.gather(*(here.stream() for _ in range(8))) == [WHOLE] * 8
        await until(here.is_busy(0))
        await here.client.aclose()
        here.served.process.send_signal(signal.SIGTERM)
        said = await asyncio.to_thread(here.served.process.stderr.read)  # type: ignore[union-attr]
        assert f"worker {before[0]} ended with -9 and is started again; 4 requests that it answered were cut" in said


async def test_a_worker_that_hangs_gets_no_connection_and_holds_nobody_up(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        hung, _ = [worker["pid"] for worker in await here.workers()]
        other = httpx.AsyncClient(base_url=here.client.base_url, timeout=30)
        os.kill(hung, signal.SIGSTOP)
        try:
            here.held.go.set()

            async def answers() -> bool:
                """Whoever was handed to it before the owner noticed waits for it."""
                try:
                    async with httpx.AsyncClient(base_url=here.client.base_url, timeout=1) as client:
                        return (await client.get("/healthz")).status_code == 200
                except httpx.TimeoutException:
                    return False

            await until(answers)
            for _ in range(3):
                await until(answers)
            assert await asyncio.gather(*(here.stream() for _ in range(8))) == [WHOLE] * 8
        finally:
            os.kill(hung, signal.SIGCONT)
            await other.aclose()


async def test_nothing_outlives_a_killed_owner(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(TWO)
    starting = serve(config, "--workers", "2")
    served = await asyncio.to_thread(starting.__enter__)
    try:
        async with openai.AsyncOpenAI(base_url=served.url, api_key="none") as client:
            await client.chat.completions.create(model="default", messages=BODY["messages"], max_tokens=4)
        children = psutil.Process(served.process.pid).children(recursive=True)
        assert len(children) == 3
        served.process.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, 10)
        assert not alive
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


async def test_a_switch_under_load_fails_nothing(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(TWO)
    starting = serve(config, "--workers", "2")
    served = await asyncio.to_thread(starting.__enter__)
    try:
        going, answered = True, []

        async def ask() -> None:
            async with openai.AsyncOpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
                while going:
                    stream = await client.chat.completions.create(
                        model="default", messages=BODY["messages"], stream=True, max_tokens=20
                    )
                    reasons = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
                    assert reasons[-1] in ("stop", "length")
                    answered.append(reasons[-1])

        clients = [asyncio.create_task(ask()) for _ in range(6)]
        while len(answered) < 12:
            await asyncio.sleep(0.01)
        ended = await asyncio.to_thread(run, "switch", "default", "two", "--url", served.url)
        then = len(answered)
        while len(answered) < then + 12:
            await asyncio.sleep(0.01)
        going = False
        await asyncio.gather(*clients)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith("route default: one -> two: done in ")
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


@pytest.mark.parametrize(("name", "allowed"), [("k0", 7), ("k1", 3)], ids=["requests", "at once"])
async def test_limits_of_a_key_are_counted_over_all_workers(limited: House, name: str, allowed: int) -> None:
    asking = [asyncio.create_task(_ask_with(limited, name)) for _ in range(20)]
    await until(limited.is_busy(allowed))
    refused = []
    while len(refused) < 20 - allowed:
        done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        refused += [task.result() for task in done]
        asking = [task for task in asking if task not in done]
    assert refused == [429] * (20 - allowed)
    limited.held.go.set()
    assert await asyncio.gather(*asking) == [200] * allowed
    await until(limited.is_busy(0))
    if name == "k1":
        assert await _ask_with(limited, name) == 200


async def test_tokens_are_counted_over_all_workers(limited: House) -> None:
    limited.held.go.set()
    assert [await _ask_with(limited, "k2") for _ in range(4)] == [200, 200, 200, 429]  # 10 tokens each


async def test_a_reload_by_signal_reaches_the_workers(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        here.held.go.set()
        headers = {"host": "models.example.com"}
        chat = [*[here.client.post("/v1/chat/completions", json=BODY, headers=headers) for _ in range(2)]]
        assert [answer.status_code for answer in await asyncio.gather(*chat)] == [400, 400]
        text = here.config.read_text().replace("name: one", "name: three")
        here.config.write_text(text + "server: {hosts: [models.example.com], body_limit_mib: 1}\n")
        here.served.process.send_signal(signal.SIGHUP)
        assert here.served.process.stderr is not None
        said = await asyncio.to_thread(here.served.process.stderr.readline)
        assert said.startswith("reload: ")

        async def both() -> bool:
            answers = await asyncio.gather(*(_once(here.client.base_url, BODY, headers) for _ in range(4)))
            return answers == [200] * 4

        await until(both)
        large = {**BODY, "messages": [{"role": "user", "content": "x" * (1 << 20)}]}
        assert await asyncio.gather(*(_once(here.client.base_url, large, {}) for _ in range(4))) == [413] * 4
        lines = await here.client.post("/api/chat", json={"model": "three", "messages": BODY["messages"]})
        assert json.loads(lines.text.splitlines()[-1])["done"] is True


async def test_a_client_that_leaves_frees_its_slot_and_its_backend(here: House) -> None:
    left = 'roundhouse_requests_total{outcome="client_left",route="default",target="one"}'
    before, seen = await here.counted(left), len(here.fake.seen)
    streams = await here.streams(4)
    for task in streams[:3]:
        task.cancel()
    await asyncio.gather(*streams[:3], return_exceptions=True)
    await until(here.is_busy(1))

    async def are_gone() -> bool:
        return [exchange.gone.is_set() for exchange in here.fake.seen[seen:]].count(True) == 3

    await until(are_gone)
    here.held.go.set()
    assert await streams[3] == WHOLE
    await until(here.is_busy(0))
    assert await here.counted(left) == before + 3


async def test_who_leaves_while_waiting_for_a_slot_leaves_the_queue(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        text = here.config.read_text().replace("model: m", "model: m, slots: 2")
        here.config.write_text(text)
        here.served.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(here.served.process.stderr.readline)  # type: ignore[union-attr]
        streams = await here.streams(2)
        waiting = [asyncio.create_task(here.stream()) for _ in range(3)]

        async def are_waiting(count: int) -> bool:
            return bool((await here.state())["waiting"] == count)

        await until(lambda: are_waiting(3))
        waiting[0].cancel()
        await until(lambda: are_waiting(2))
        here.held.go.set()
        assert await asyncio.gather(*streams, *waiting[1:]) == [WHOLE] * 4


async def test_a_graceful_stop_finishes_streams_and_takes_no_new_ones(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        streams = await here.streams(4)
        processes = psutil.Process(here.served.process.pid).children()
        here.served.process.send_signal(signal.SIGTERM)

        async def is_closed() -> bool:
            try:
                async with httpx.AsyncClient(base_url=here.client.base_url, timeout=30) as client:
                    await client.get("/healthz")
            except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):
                return True
            return False

        await until(is_closed)
        here.held.go.set()
        assert await asyncio.gather(*streams) == [WHOLE] * 4
        await here.client.aclose()
        assert await asyncio.to_thread(here.served.process.wait, 20) in (0, -signal.SIGTERM)
        assert not psutil.wait_procs(processes, 0)[1]


async def test_a_stop_ends_the_page_s_figures_without_a_word(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        async with here.client.stream("GET", "/admin/live") as live:
            lines = live.aiter_lines()
            assert (await anext(lines)).startswith("event: ")
            here.served.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in lines:
                    pass
        assert here.served.process.stderr is not None
        assert await asyncio.to_thread(here.served.process.stderr.read) == ""


async def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with house(tmp_path, "server: {drain: 1}\n") as here:
        streams = await here.streams(4)
        processes = psutil.Process(here.served.process.pid).children()
        here.served.process.send_signal(signal.SIGTERM)
        assert all(text == "One" and reason != "stop" for text, reason in await asyncio.gather(*streams))
        await here.client.aclose()
        await asyncio.to_thread(here.served.process.wait, 20)
        assert not psutil.wait_procs(processes, 0)[1]


async def test_a_worker_that_is_told_to_leave_finishes_its_streams_and_is_replaced(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        streams = await here.streams(4)
        leaving = (await here.workers())[0]["pid"]
        os.kill(leaving, signal.SIGTERM)
        here.held.go.set()
        assert await asyncio.gather(*streams) == [WHOLE] * 4
        here.client = httpx.AsyncClient(base_url=here.client.base_url, timeout=30)

        async def is_replaced() -> bool:
            pids = [worker["pid"] for worker in await here.workers()]
            return len(pids) == 2 and leaving not in pids

        await until(is_replaced)
        assert await asyncio.gather(*(here.stream() for _ in range(8))) == [WHOLE] * 8
        await here.client.aclose()


async def test_a_request_that_runs_says_who_answers_it(here: House) -> None:
    streams = await here.streams(1)

    async def is_said() -> bool:
        running = (await here.client.get("/admin/decisions")).json()["decisions"][0]
        return (running["target"], running["outcome"]) == ("one", "running")

    await until(is_said)
    here.held.go.set()
    assert await asyncio.gather(*streams) == [WHOLE]


async def test_a_failover_is_decided_by_the_owner_and_told_to_the_client(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        here.held.go.set()
        dead = "{type: openai, name: dead, model: m, endpoint: 'http://127.0.0.1:9'}"
        here.config.write_text(here.config.read_text().replace("[{", f"[{dead}, {{"))
        here.served.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(here.served.process.stderr.readline)  # type: ignore[union-attr]
        answer = (await here.client.post("/v1/chat/completions", json=BODY)).json()
        assert answer["choices"][0]["message"]["content"] == WHOLE[0]
        outcomes = [(one["target"], one["outcome"]) for one in answer["roundhouse"]["attempts"]]
        assert outcomes == [("dead", "connect_failed"), ("one", "ok")]
        answer = (await here.client.post("/v1/chat/completions", json={**BODY, "model": "dead"})).json()
        assert answer["error"]["code"] == "connect_failed"


async def test_what_has_no_place_on_the_way_to_the_owner_is_refused_in_words(here: House) -> None:
    here.held.go.set()
    answer = await here.client.post("/v1/chat/completions", json={**BODY, "odd": 2**70})
    assert (answer.status_code, "64 bits" in answer.text) == (400, True)
    body = json.dumps({**BODY, "odd": "\\ud800"}).replace("\\\\ud800", "\\ud800")
    answer = await here.client.post("/v1/chat/completions", content=body)
    assert answer.status_code in (200, 400)
    assert (await here.stream()) == WHOLE


async def test_with_hedging_the_owner_answers(tmp_path: Path) -> None:
    async with house(tmp_path, "limits: {hedge: 1}\n") as here:
        streams = await here.streams(4)
        assert [worker["requests"] for worker in await here.workers()] == [0, 0]
        here.held.go.set()
        assert await asyncio.gather(*streams) == [WHOLE] * 4


async def _ask_with(here: House, name: str) -> int:
    """On a connection of its own."""
    return await _once(here.client.base_url, BODY, {"authorization": f"Bearer {name}-{KEY}"})


async def _once(url: httpx.URL, body: dict[str, Any], headers: dict[str, str]) -> int:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        return (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code


def _ps(url: str) -> str:
    return run("ps", "--url", url, check=True).stdout
