"""Switches under load: requests lost, cut or delayed, where both targets fit the memory and where only one does."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import Row, percentile
from roundhouse.config import Settings, load_mapping
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.core.errors import Error
from roundhouse.gateway import Gateway
from roundhouse.gateway.demo import demo_gguf
from roundhouse.gateway.ways import ways_of
from roundhouse.prompts.builtin import builtin
from roundhouse.resources import hardware

__all__ = ["run"]

_CLIENTS = 8
_SWITCHES = 20
_BETWEEN_S = 1.0
_TARGETS = ("llamacpp", "huggingface")


@dataclass(slots=True)
class Load:
    """What the clients saw. `spans`: begin, end and the switch's number that ran at the time, -1 = none."""

    failed: list[str] = field(default_factory=list)
    wrong: int = 0
    spans: list[tuple[float, float, str]] = field(default_factory=list)
    stop: bool = False


def run() -> list[Row]:
    rows = []
    for name, memory_mib in (("side by side", 0), ("one after the other", _room_for_one())):
        load, switches = asyncio.run(_switching(memory_mib))
        rows += _rows(name, load, switches)
    return rows


def _room_for_one() -> int:
    """MiB in which the larger of the two fits, and not both."""
    settings = _settings(0)
    needs = [
        sum(ways_of(entry, settings, hardware.devices())[0].option.needs.values()) >> 20 for entry in settings.targets
    ]
    return max(needs) + min(needs) // 2


def _settings(memory_mib: int) -> Settings:
    common = {"model": "demo", "n_ctx": 512, "n_parallel": _CLIENTS, "temperature": 0.0}
    # A large cache, so that the model and not the empty worker is most of what is loaded.
    providers = [{"type": kind, **common} for kind in _TARGETS]
    providers[1]["cache_tokens"] = 100_000
    llm = {"providers": providers, "fallback_order": ["llamacpp"]}
    return load_mapping({"llm": llm, "resources": {"memory_mib": memory_mib}})


async def _switching(memory_mib: int) -> tuple[Load, list[dict[str, Any]]]:
    load = Load()
    async with Gateway(_settings(memory_mib)) as gateway:
        asked = await _questions(gateway)
        clients = [asyncio.create_task(_client(gateway, load, asked, number)) for number in range(_CLIENTS)]
        done: list[dict[str, Any]] = []
        serving, other = _TARGETS
        for _ in range(_SWITCHES):
            await asyncio.sleep(_BETWEEN_S)
            began = time.perf_counter()
            switch = gateway.switch("default", other)
            while not switch.over:
                await switch.changed.wait()
            if not switch.error:
                serving, other = other, serving
            done.append({**switch.as_dict(), "began": began, "ended": time.perf_counter()})
        load.stop = True
        await asyncio.gather(*clients)
    return load, done


async def _questions(gateway: Gateway) -> list[tuple[ChatRequest, str]]:
    """Requests of the held-out set, and the answers that an undisturbed engine gives."""
    prompt = builtin().find("rag_query")
    rows = [json.loads(line) for line in (demo_gguf().parent / "heldout.jsonl").read_text().splitlines()[:32]]
    prepared = [prompt.prepare({name: row[name] for name in ("context", "question")}) for row in rows]
    sampling = Sampling(temperature=0.0, max_tokens=48)
    requests = [ChatRequest.of(one.wording("demo").text, sampling=sampling) for one in prepared]
    return [(request, (await gateway.generate(request)).answer.text) for request in requests]


async def _client(gateway: Gateway, load: Load, asked: list[tuple[ChatRequest, str]], number: int) -> None:
    while not load.stop:
        request, wanted = asked[number % len(asked)]
        number += 1
        began = time.perf_counter()
        try:
            got = await gateway.generate(request)
        except Error as error:
            load.failed.append(str(error))
            continue
        load.wrong += got.answer.text != wanted or got.answer.finish_reason != "stop"
        load.spans.append((began, time.perf_counter(), got.report.target))


def _rows(name: str, load: Load, switches: list[dict[str, Any]]) -> list[Row]:
    undone = [one["error"] for one in switches if one["error"]]
    lost = len(load.failed)
    said = f"{lost} failed, {load.wrong} wrong or cut of {len(load.spans) + lost} requests; {len(undone)} undone"
    rows = [
        Row(
            f"{_SWITCHES} switches, {name}, {_CLIENTS} clients",
            said + "".join(f"; {one}" for one in (*load.failed[:1], *undone[:1])),
            "0 failed, 0 cut, of >= 2,000",
            lost + load.wrong + len(undone) == 0 and len(load.spans) >= 2000,
        )
    ]
    added = []
    for target in _TARGETS:
        during = [
            end - begin
            for begin, end, served in load.spans
            if served == target and any(begin < one["ended"] and end > one["began"] for one in switches)
        ]
        quiet = [
            end - begin
            for begin, end, served in load.spans
            if served == target and not any(begin < one["ended"] and end > one["began"] for one in switches)
        ]
        if during and quiet:
            added.append((percentile(during, 0.99) - percentile(quiet, 0.99), percentile(quiet, 0.99), target))
    worst = max(added)
    took = sorted(one["ended"] - one["began"] for one in switches)
    held = [one["held_s"] for one in switches]
    rows.append(
        Row(
            f"added p99 of requests during such a switch, {name}",
            f"{1000 * worst[0]:+.0f} ms ({worst[2]}); a switch takes {took[len(took) // 2]:.1f} s, "
            f"requests wait at most {max(held):.1f} s",
            "<= 100 ms" if name == "side by side" else "",
            worst[0] <= 0.1 if name == "side by side" else None,
            f"p99 {1000 * worst[1]:.0f} ms",
        )
    )
    return rows
