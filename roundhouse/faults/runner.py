"""Drives any OpenAI-compatible gateway through every case, streaming and not, and judges what its client saw."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp

from roundhouse.core.errors import ConnectFailed
from roundhouse.faults.cases import CASES, Case, Seen, judge

__all__ = ["Result", "run"]

_LONGEST_S = 120.0
_INVALID = 50


@dataclass(frozen=True, slots=True)
class Result:
    """`fault` is what was wrong; empty = passed. `seen` is the last request, or the one that was wrong."""

    case: Case
    streaming: bool
    fault: str
    seen: Seen

    def as_dict(self) -> dict[str, Any]:
        return {
            "case": self.case.name,
            "about": self.case.about,
            "owed": self.case.owed.value,
            "streaming": self.streaming,
            "passed": not self.fault,
            "fault": self.fault,
            "seen": asdict(self.seen),
        }


@dataclass(frozen=True, slots=True)
class Gateway:
    """What is tested: an OpenAI base URL that ends in /v1, its key, and a model that both backends stand behind."""

    url: str
    key: str
    model: str


async def run(
    url: str, key: str, model: str, control: str, *, scale: float = 1.0, names: Sequence[str] = ()
) -> AsyncIterator[Result]:
    """Each case twice, whole and streamed. `control` is the URL of the backends' control port."""
    gateway = Gateway(url.rstrip("/"), key, model)
    async with aiohttp.ClientSession() as session:
        for case in CASES:
            if names and case.name not in names:
                continue
            for streaming in (False, True):
                yield await _case(session, gateway, control, case, scale, streaming)


async def _case(
    session: aiohttp.ClientSession, gateway: Gateway, control: str, case: Case, scale: float, streaming: bool
) -> Result:
    await _set(session, control, "", scale)
    await _healed(session, gateway, control)
    fault = "" if case.name == "healthy" else case.name
    await _set(session, control, fault, scale)
    if case.requests == "invalid":
        for _ in range(_INVALID):
            await _ask(session, gateway, streaming, temperature=1.5)
    seen, said = Seen(0, "", None, "nothing was asked", 0.0), ""
    for _ in range(case.repeat):
        before = await _counts(session, control)
        if case.requests == "leave":
            seen = await _leave(session, gateway, control, streaming)
        else:
            seen = await _ask(session, gateway, streaming)
        after = await _counts(session, control)
        asked = {name: after[name] - before[name] for name in ("faulty_asked", "spare_asked")}
        seen = Seen(**{**asdict(seen), **asked})
        said = judge(case, seen, scale)
        if said:
            break
    return Result(case, streaming, said, seen)


async def _healed(session: aiohttp.ClientSession, gateway: Gateway, control: str) -> None:
    """Wait until the gateway asks the first backend again, so that no case suffers from the one before."""
    ends = time.monotonic() + _LONGEST_S
    in_a_row = 0
    while time.monotonic() < ends and in_a_row < 3:
        before = await _counts(session, control)
        await _ask(session, gateway, streaming=False)
        after = await _counts(session, control)
        in_a_row = in_a_row + 1 if after["faulty_asked"] > before["faulty_asked"] else 0
        if not in_a_row:
            await asyncio.sleep(0.1)


async def _ask(session: aiohttp.ClientSession, gateway: Gateway, streaming: bool, **fields: Any) -> Seen:
    began = time.monotonic()
    limit = aiohttp.ClientTimeout(total=_LONGEST_S)
    try:
        async with session.post(
            f"{gateway.url}/chat/completions",
            json=_body(gateway, streaming, fields),
            headers=_headers(gateway),
            timeout=limit,
        ) as response:
            if response.status != 200 or not streaming:
                return _whole(response.status, await response.read(), time.monotonic() - began)
            return await _streamed(response, began)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Seen(0, "", None, f"{type(error).__name__}: {error}", time.monotonic() - began)


def _whole(status: int, data: bytes, seconds: float) -> Seen:
    try:
        body = json.loads(data)
    except ValueError:
        return Seen(status, "", None, "the gateway answered no JSON", seconds)
    if "error" in body:
        return Seen(status, "", None, str(body["error"])[:300], seconds)
    choice = body["choices"][0]
    usage = body.get("usage") or {}
    counts = (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)) if usage else None
    return Seen(status, choice["message"]["content"] or "", choice["finish_reason"], "", seconds, usage=counts)


async def _streamed(response: aiohttp.ClientResponse, began: float) -> Seen:
    text, reason, error, usage = "", None, "", None
    async for line in response.content:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            error = str(event["error"])[:300]
            continue
        if event.get("usage"):
            usage = (event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"])
        for choice in event.get("choices", ())[:1]:
            text += choice["delta"].get("content") or ""
            reason = choice.get("finish_reason") or reason
    return Seen(200, text, reason, error, time.monotonic() - began, usage=usage)


async def _leave(session: aiohttp.ClientSession, gateway: Gateway, control: str, streaming: bool) -> Seen:
    """Ask, wait until the backend is at it, hang up, and see how long it goes on."""
    began = time.monotonic()
    asking = asyncio.ensure_future(_ask(session, gateway, streaming))
    before = await _counts(session, control)
    while (await _counts(session, control))["faulty_asked"] == before["faulty_asked"] and not before["faulty_asked"]:
        if time.monotonic() - began > _LONGEST_S or asking.done():
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    hung_up = time.monotonic()
    while time.monotonic() - hung_up < 5:
        left_ago_s = (await _counts(session, control))["left_ago_s"]
        if left_ago_s is not None:
            released_s = max(0.0, time.monotonic() - left_ago_s - hung_up)
            return Seen(0, "", None, "the client left", 0.0, released_s=released_s)
        await asyncio.sleep(0.02)
    return Seen(0, "", None, "the client left", 0.0)


async def _set(session: aiohttp.ClientSession, control: str, fault: str, scale: float) -> None:
    try:
        async with session.post(control, json={"fault": fault, "scale": scale}) as response:
            response.raise_for_status()
    except aiohttp.ClientError as error:
        said = f"no faulty backend answers at {control}: {error}; start it by `roundhouse faults serve`"
        raise ConnectFailed(said) from error


async def _counts(session: aiohttp.ClientSession, control: str) -> dict[str, Any]:
    async with session.get(control) as response:
        counts: dict[str, Any] = await response.json()
        return counts


def _body(gateway: Gateway, streaming: bool, fields: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What does the turntable do?"}]
    body = {"model": gateway.model, "messages": messages, "stream": streaming, **fields}
    return {**body, "stream_options": {"include_usage": True}} if streaming else body


def _headers(gateway: Gateway) -> dict[str, str]:
    return {"authorization": f"Bearer {gateway.key}"} if gateway.key else {}
