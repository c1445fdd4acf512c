"""A vLLM server as the real one behaves on the wire (vllm/entrypoints/openai), refusals included, with a toy model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.fakes.http import Exchange, fake_server
from tests.fakes.toy_model import Asked, ToyModel, json_of, tokens_of

__all__ = ["FakeVLLM", "fake_vllm"]

_TOKEN_S = 0.002


class FakeVLLM:
    """`busy` is what its metrics say it runs."""

    def __init__(self, model: str = "m", window: int = 512) -> None:
        self.model = model
        self.window = window
        self.busy = 0
        self.asleep = False
        self.bodies: list[dict[str, Any]] = []
        self.url = ""

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.path.partition("?")[0]
        match f"{exchange.method} {path}":
            case "GET /health" | "GET /ping":
                await exchange.whole(b"")
            case "GET /v1/models":
                await exchange.whole({"object": "list", "data": [{"id": self.model, "max_model_len": self.window}]})
            case "GET /metrics":
                await exchange.start(200, "text/plain")
                labels = f'engine="0",model_name="{self.model}"'
                text = f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{{labels}}} {self.busy}.0\n"
                text += f"vllm:num_requests_waiting{{{labels}}} 0.0\nvllm:kv_cache_usage_perc{{{labels}}} 0.25\n"
                await exchange.send(text.encode())
            case "POST /tokenize":
                count = len(tokens_of(_rendered(exchange.json["messages"])))
                await exchange.whole({"count": count, "max_model_len": self.window, "tokens": [0] * count})
            case "POST /v1/embeddings":
                rows = [
                    {"index": index, "embedding": ToyModel().vector(text)}
                    for index, text in enumerate(exchange.json["input"])
                ]
                await exchange.whole({"object": "list", "data": rows, "usage": {"prompt_tokens": 9}})
            case "POST /sleep":
                self.asleep = True
                await exchange.whole(b"")
            case "POST /wake_up":
                self.asleep = False
                await exchange.whole(b"")
            case "GET /is_sleeping":
                await exchange.whole({"is_sleeping": self.asleep})
            case "POST /v1/chat/completions":
                await self._chat(exchange)
            case _:
                await exchange.whole({"detail": "Not Found"}, 404)

    async def _chat(self, exchange: Exchange) -> None:
        body = exchange.json
        self.bodies.append(body)
        if (refusal := self._refusal(body)) is not None:
            status, kind, message, param = refusal
            error = {"message": message, "type": kind, "param": param, "code": status}
            await exchange.whole({"error": error}, status)
            return
        await exchange.start()
        self.busy += 1
        try:
            await self._write(exchange, body)
        finally:
            self.busy -= 1

    def _refusal(self, body: Mapping[str, Any]) -> tuple[int, str, str, str | None] | None:
        bad = (400, "BadRequestError")
        if body.get("model") != self.model:
            return 404, "NotFoundError", f"The model `{body.get('model')}` does not exist.", "model"
        if nulls := [name for name, value in body.items() if value is None]:
            return *bad, f"{nulls[0]} is null", nulls[0]
        if body.get("continue_final_message") and body.get("add_generation_prompt", True):
            said = "Cannot set both continue_final_message and add_generation_prompt to True"
            return *bad, said, None
        if body.get("tools") == []:
            return *bad, "tools must not be an empty array", "tools"
        if body.get("tool_choice") and not body.get("tools"):
            return *bad, "When using `tool_choice`, `tools` must be set.", "tool_choice"
        if body.get("stream_options") and not body.get("stream"):
            return *bad, "Stream options can only be defined when `stream=True`.", "stream_options"
        count = len(tokens_of(_rendered(body["messages"])))
        if count >= self.window:
            said = f"This model's maximum context length is {self.window} tokens. However, your request has {count}"
            return *bad, f"{said} input tokens. Please reduce the length of the input messages.", "input_tokens"
        return None

    async def _write(self, exchange: Exchange, body: Mapping[str, Any]) -> None:
        messages = body["messages"]
        prompt_tokens = len(tokens_of(_rendered(messages)))
        prefix = messages[-1]["content"] if body.get("continue_final_message") else ""
        await exchange.send(_event(_choice({"role": "assistant", "content": ""})))
        if body.get("tools"):
            function = body["tools"][0]["function"]
            arguments = json_of(function["parameters"])
            call = {"index": 0, "id": "chatcmpl-tool-1", "type": "function"}
            await exchange.send(_event(_choice({"tool_calls": [{**call, "function": {"name": function["name"]}}]})))
            for piece in tokens_of(arguments):
                await exchange.send(_event(_choice({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})))
            count, reason = len(tokens_of(arguments)), "tool_calls"
        else:
            asked = Asked(
                _rendered(messages[:-1] if prefix else messages),
                prefix,
                body.get("max_tokens"),
                body.get("temperature", 1.0),
                body.get("seed", 0),
                body.get("stop", ()),
                json_of(body["response_format"]["json_schema"]["schema"]) if "response_format" in body else "",
                endless=bool(body.get("ignore_eos")),
            )
            count, reason = 0, "stop"
            for token, end in ToyModel(self.window).tokens(asked):
                if exchange.gone.is_set():
                    return
                count += 1
                if token:
                    logprobs = _logprobs(token, body.get("top_logprobs", 0)) if body.get("logprobs") else None
                    await exchange.send(_event(_choice({"content": token}, logprobs=logprobs)))
                if end:
                    reason = end
                    break
                await asyncio.sleep(_TOKEN_S)
        await exchange.send(_event(_choice({}, finish_reason=reason)))
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": count, "total_tokens": prompt_tokens + count}
        await exchange.send(_event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")


@asynccontextmanager
async def fake_vllm(model: str = "m", window: int = 512) -> AsyncIterator[FakeVLLM]:
    vllm = FakeVLLM(model, window)
    async with fake_server(vllm) as server:
        vllm.url = server.url
        yield vllm


def _rendered(messages: list[dict[str, Any]]) -> str:
    return "\n".join(f"{turn['role']}: {turn.get('content', '')}" for turn in messages)


def _choice(delta: Mapping[str, Any], logprobs: Any = None, finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


def _logprobs(token: str, top: int) -> dict[str, Any]:
    others = [{"token": token, "logprob": -0.25}, {"token": " other", "logprob": -1.5}, {"token": "!", "logprob": -3.0}]
    return {"content": [{"token": token, "logprob": -0.25, "bytes": None, "top_logprobs": others[:top]}]}


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
