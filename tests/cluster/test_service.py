"""The service over a cluster of three nodes: it answers as one machine does, and survives what one machine cannot."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.conftest import Client, Outcome, Running

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(400)]
WORDS = " ".join(f"w{number}" for number in range(60))


async def test_a_chat_is_answered_and_every_entrance_knows_the_routes(running: Running, client: Client) -> None:
    outcome = await client.ask("default", "Who built it?")
    assert outcome.finished, outcome
    assert outcome.text
    state = await client.state()
    assert len(state["entrances"]) == 3
    assert state["routes"]["default"]["targets"] == [["demo"]]
    assert (await client.row("demo"))["engine"] == "ready"
    assert (await client.row("other"))["engine"] == "cold"  # no route leads there


async def test_an_error_of_an_engine_crosses_as_what_it_is(client: Client) -> None:
    """The context overflow of llama.cpp on another node is a 400 here, with its own code."""
    outcome = await client.ask("default", "word " * 20_000)
    assert outcome.error.startswith("400 ")
    assert "context_length_exceeded" in outcome.error


async def test_a_client_that_leaves_frees_the_slot_of_the_engine(running: Running, client: Client) -> None:
    gone = running.noted("gone")
    task = asyncio.create_task(client.ask("words"))

    async def begun() -> bool:
        return running.noted("begin") > running.noted("end") + running.noted("gone")

    await client.until(begun)
    task.cancel()

    async def told() -> bool:
        return running.noted("gone") == gone + 1

    await client.until(told, 10.0)

    async def free() -> bool:
        return (await client.row("slow"))["busy"] == 0

    await client.until(free, 10.0)


async def test_more_requests_than_slots_wait_and_are_all_served(client: Client) -> None:
    outcomes = await asyncio.gather(*(client.ask("words", f"question {number}", max_tokens=8) for number in range(40)))
    assert Counter(one.error for one in outcomes) == {"": 40}
    assert {one.text for one in outcomes} == {" ".join(f"w{number}" for number in range(8))}


async def test_a_conversation_returns_to_the_replica_that_has_its_beginning(running: Running, client: Client) -> None:
    """Whichever entrance it comes by; and other conversations are at home elsewhere."""
    before = len(running.answering())
    for _ in range(6):
        assert (await client.ask("words", "the same question", max_tokens=2)).finished
    assert len(set(running.answering()[before:])) == 1
    for number in range(12):
        assert (await client.ask("words", f"another question {number}", max_tokens=2)).finished
    assert len(set(running.answering()[before:])) == 2


async def test_a_target_without_replicas_gets_one_with_the_first_request(client: Client) -> None:
    assert await _running(client, "asleep") == 0
    outcome = await client.ask("seldom")
    assert outcome.finished, outcome

    async def one() -> bool:
        return await _running(client, "asleep") == 1

    await client.until(one)


async def test_a_switch_to_a_target_that_sleeps_starts_it_before_anybody_is_sent_there(client: Client) -> None:
    """Its application is there, with no replica; what starting one takes is told as the start, not as the check."""
    assert (await client.ask("seldom")).finished

    async def asleep() -> bool:
        return await _running(client, "asleep") == 0

    await client.until(asleep)
    assert (await client.row("asleep"))["engine"] == "ready"
    outcomes: list[Outcome] = []
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as clients:
        clients.create_task(client.load("switched", outcomes, ended))
        status, told = await client.order("switch", route="switched", target="asleep", wait=True)
        ended.set()
    assert (status, told["state"]) == (200, "done"), told
    assert [one for one in outcomes if one.error or not one.finished] == []
    status, told = await client.order("switch", route="switched", target="demo", wait=True)
    assert (status, told["state"]) == (200, "done"), told


async def _running(client: Client, target: str) -> int:
    return int((await client.row(target))["nodes"].get("running", 0))


async def _got(client: Client, path: str) -> tuple[int, str]:
    async with client.http.get(f"{client.url}{path}") as response:
        return response.status, await response.text()


async def test_a_request_is_explained_by_whichever_entrance_is_asked(client: Client) -> None:
    body = {"model": "default", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 2}
    async with client.http.post(f"{client.url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        (number,) = response.headers.getall("x-request-id")
    for _ in range(12):  # Serve's proxy sends each to another entrance
        status, said = await _got(client, f"/admin/decisions/{number}")
        assert status == 200, said
        assert json.loads(said)["target"] == "demo"
        _, listed = await _got(client, "/admin/decisions")
        assert number.removeprefix("chatcmpl-") in {row["id"] for row in json.loads(listed)["decisions"]}
    assert (await _got(client, "/admin/decisions/nobody"))[0] == 404


async def test_a_scrape_tells_of_all_entrances_and_no_series_ever_falls(client: Client) -> None:
    def answered(series: dict[tuple[str, str], float]) -> float:
        asked = 'roundhouse_requests_total{outcome="ok",route="switched"'
        return sum(value for (name, _), value in series.items() if name.startswith(asked))

    before = _grows((await _got(client, "/metrics"))[1])
    began = answered(before)
    for turn in range(1, 9):
        assert (await client.ask("switched", f"turn {turn}", max_tokens=2)).finished
        now = _grows((await _got(client, "/metrics"))[1])
        assert [key for key, value in before.items() if now.get(key, -1.0) < value] == []
        assert answered(now) - began == turn
        before = now
    assert len({whose for _, whose in before if not whose.startswith("owner/")}) == 3
    assert any(name.startswith("roundhouse_switches_total") and whose.startswith("owner/") for name, whose in before)


def _grows(exposition: str) -> dict[tuple[str, str], float]:
    """What may never fall, by its series and whose it is."""
    found = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name.endswith(("_total", "_bucket", "_count", "_sum")):
                labels = dict(sorted(sample.labels.items()))
                whose = labels.pop("entrance")
                named = ",".join(f'{name}="{value}"' for name, value in labels.items())
                found[f"{sample.name}{{{named}}}", whose] = sample.value
    return found


async def test_a_switch_under_load_fails_no_request(client: Client) -> None:
    outcomes: list[Outcome] = []
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as clients:
        for _ in range(4):
            clients.create_task(client.load("switched", outcomes, ended))
        for target, canary in (("other", None), ("demo", {"percent": 40, "for_s": 2})):
            more = {"canary": canary} if canary else {}
            status, told = await client.order("switch", route="switched", target=target, wait=True, **more)
            assert (status, told["state"]) == (200, "done"), told
        ended.set()
    assert told["canary"]["requests"]["new"] > 0
    assert len(outcomes) > 20
    assert [one for one in outcomes if one.error or not one.finished] == []
    assert (await client.state())["routes"]["switched"]["targets"] == [["demo"]]
    await _is_cold(client, "other")


async def _is_cold(client: Client, target: str) -> None:
    """What the state says is a moment old."""

    async def cold() -> bool:
        return (await client.row(target))["engine"] == "cold"

    await client.until(cold, 10.0)


async def test_a_model_that_does_not_start_never_serves_and_all_is_as_before(client: Client) -> None:
    outcomes: list[Outcome] = []
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as clients:
        for _ in range(2):
            clients.create_task(client.load("switched", outcomes, ended))
        status, told = await client.order("switch", route="switched", target="broken", wait=True)
        ended.set()
    assert (status, told["state"]) == (409, "failed")
    assert "missing.gguf" in told["error"]
    assert [one for one in outcomes if one.error or not one.finished] == []
    assert (await client.state())["routes"]["switched"]["targets"] == [["demo"]]


async def test_a_model_whose_answer_is_wrong_is_taken_back(client: Client) -> None:
    check = {"prompt": "Hello", "expect": "no model says this"}
    status, told = await client.order("switch", route="switched", target="other", wait=True, check=check)
    assert (status, told["state"]) == (409, "failed")
    assert "no model says this" in told["error"]
    assert (await client.state())["routes"]["switched"]["targets"] == [["demo"]]
    await _is_cold(client, "other")


async def test_an_engine_that_crashes_costs_no_answer_silently_and_is_started_again(
    running: Running, client: Client
) -> None:
    """Its replica lives, and starts it again; what it was answering goes on in another."""
    begun = running.noted("begin")
    asked = [asyncio.create_task(client.ask("words", f"crash {number}")) for number in range(6)]

    async def under_way() -> bool:
        return running.noted("begin") >= begun + 6

    await client.until(under_way)
    crashed = running.answering()[-1]
    os.kill(crashed, signal.SIGKILL)
    outcomes = await asyncio.gather(*asked)
    assert [one for one in outcomes if one.error] == []
    assert {one.text for one in outcomes} == {WORDS}
    assert running.noted("begin") > begun + 6  # what it had was asked for again, or went on, elsewhere

    async def both() -> bool:
        await asyncio.gather(*(client.ask("words", f"again {number}", max_tokens=2) for number in range(8)))
        return len(set(running.answering()[-8:])) == 2 and crashed not in running.answering()[-8:]

    await client.until(both)


async def test_without_an_owner_requests_are_served_and_the_routes_outlive_it(running: Running, client: Client) -> None:
    """As the last switch left them; no application is started anew for it."""
    status, told = await client.order("switch", route="switched", target="other", wait=True)
    assert status == 200, told
    (owner,) = running.processes("ray::ServeReplica:roundhouse:owner")
    engines = _engines(running)
    owner.kill()
    outcomes = await asyncio.gather(*(client.ask("switched", f"without {number}") for number in range(10)))
    assert [one for one in outcomes if one.error or not one.finished] == []

    async def back() -> bool:
        status, _ = await client.order("switch", route="switched", target="nobody")
        return status == 404  # whoever knows that there is no such target is there again

    await client.until(back)

    async def told_everywhere() -> bool:
        states = await asyncio.gather(*(client.state() for _ in range(12)))
        return all(one["routes"]["switched"]["targets"] == [["other"]] for one in states)

    await client.until(told_everywhere, 20.0)
    assert _engines(running) == engines
    status, told = await client.order("switch", route="switched", target="demo", wait=True)
    assert (status, told["state"]) == (200, "done"), told


def _engines(running: Running) -> set[int]:
    return {one.pid for one in running.processes("llamacpp_worker")}


async def test_a_node_that_dies_under_load_costs_no_answer_silently(running: Running, client: Client) -> None:
    """Zero hangs, every answer whole or an explicit error, the replicas back."""
    whole = await client.ask("words", "reference")
    assert whole.text == WORDS
    node = running.node_of("sleeper.py")
    begun = running.noted("begin")
    asked = [asyncio.create_task(client.ask("words", f"question {number}")) for number in range(8)]

    async def under_way() -> bool:
        return running.noted("begin") >= begun + 8

    await client.until(under_way)
    await asyncio.to_thread(running.cluster.remove_node, node, allow_graceful=False)
    outcomes = await asyncio.gather(*asked)
    assert [one for one in outcomes if one.silent] == []
    assert {one.text for one in outcomes if one.finished and not one.error} == {WORDS}
    print({one.error[:150] for one in outcomes})
    continued = sum(bool(one.seams) for one in outcomes)
    print(f"{continued} of 8 answers went on elsewhere, {sum(bool(one.error) for one in outcomes)} ended in an error")
    assert continued + sum(bool(one.error) for one in outcomes) >= 1  # the node did serve some of them

    running.cluster.add_node(num_cpus=4, object_store_memory=80 << 20)

    async def back() -> bool:
        rows = {row["target"]: row for row in (await client.state())["replicas"]}
        return all(rows[name]["nodes"].get("running") == 2 for name in ("demo", "slow"))

    await client.until(back)
    assert (await client.ask("words")).text == WORDS
