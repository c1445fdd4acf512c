"""A backend of OpenAI's form that can do what the demo model cannot: call tools, see, embed, think."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.fakes.http import Exchange

__all__ = ["answering", "event"]

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}


def event(**fields: Any) -> bytes:
    """One event of a stream, as it is sent."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


async def answering(exchange: Exchange, output_tokens: int = 3) -> None:
    """What is said or called does not change with `output_tokens`: they are what it says it has used."""
    if exchange.path.endswith("/embeddings"):
        rows = [{"index": n, "embedding": [len(text), 3.0, 4.0]} for n, text in enumerate(exchange.json["input"])]
        await exchange.whole({"data": rows})
        return
    if exchange.path.endswith("/models"):
        await exchange.whole({"data": [{"id": "m"}]})
        return
    await exchange.start()
    for fields in _events(exchange.json, output_tokens):
        await exchange.send(event(**fields))
    await exchange.send(b"data: [DONE]\n\n")


def _events(body: dict[str, Any], output_tokens: int) -> Iterator[dict[str, Any]]:
    if "prompt" in body:
        logprobs = _old_logprobs() if "logprobs" in body else None
        yield {"choices": [{"text": f" after {body['prompt']}", "logprobs": logprobs}]}
        yield {"choices": [{"text": "", "finish_reason": "stop"}]}
    elif body.get("tools") and body["messages"][-1]["role"] != "tool":
        name = body["tools"][0]["function"]["name"]
        yield _delta(tool_calls=[{"index": 0, "id": "call_a", "function": {"name": name, "arguments": ""}}])
        yield _delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}])
        yield _delta(tool_calls=[{"index": 0, "function": {"arguments": '"Varo"}'}}])
        yield {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}
    else:
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else f"{len(content) - 1} image"
        if text.startswith("think"):
            yield _delta(reasoning_content="hm")
        for word in (f"You said: {text}", "."):
            likely = _logprobs(word) if body.get("logprobs") else None
            yield {"choices": [{"delta": {"content": word}, "logprobs": likely}]}
        yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    yield {"choices": [], "usage": {**USAGE, "completion_tokens": output_tokens}}


def _delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields}]}


def _logprobs(word: str) -> dict[str, Any]:
    return {"content": [{"token": word, "logprob": -0.5, "top_logprobs": [{"token": "x", "logprob": -1.0}]}]}


def _old_logprobs() -> dict[str, Any]:
    return {"tokens": [" after"], "token_logprobs": [-0.25], "top_logprobs": [{" after": -0.25}], "text_offset": [0]}
