"""An Ollama server as the real one behaves on the wire (api/types.go, server/routes.go), with a toy model inside.

What it does besides answering, and a test may look at: `loads` counts every load, a changed `num_ctx` causes one, no
headers are sent while it loads, and `/api/ps` shows the model only afterwards.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.fakes.http import Exchange, FakeServer, fake_server
from tests.fakes.toy_model import Asked, ToyModel, json_of, tokens_of

__all__ = ["FakeOllama", "fake_ollama"]

_TOKEN_S = 0.002
_RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
_STAMP = "2026-01-01T00:00:00Z"


class FakeOllama:
    """`models`: what has been pulled. `registry`: what could be. `url` once it serves."""

    def __init__(self, *models: str, window: int = 512, load_s: float = 0.0, registry: tuple[str, ...] = ()) -> None:
        self.models = list(models)
        self.registry = registry
        self.window = window
        self.load_s = load_s
        self.loads = 0
        self.busy = 0
        self.loaded: dict[str, dict[str, Any]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self.break_after: int | None = None

    async def __call__(self, exchange: Exchange) -> None:
        routes = {
            "GET /": self._root,
            "GET /api/version": self._version,
            "GET /api/tags": self._tags,
            "GET /api/ps": self._ps,
            "POST /api/show": self._show,
            "POST /api/chat": self._chat,
            "POST /api/embed": self._embed,
            "POST /api/pull": self._pull,
            "DELETE /api/delete": self._delete,
        }
        handler = routes.get(f"{exchange.method} {exchange.path}")
        if handler is None:
            await exchange.whole(b"404 page not found", 404)
            return
        await handler(exchange)

    async def _root(self, exchange: Exchange) -> None:
        await exchange.start(200, "text/plain")
        await exchange.send(b"Ollama is running")

    async def _version(self, exchange: Exchange) -> None:
        await exchange.whole({"version": "0.32.1"})

    async def _tags(self, exchange: Exchange) -> None:
        rows = [{"name": name, "model": name, "size": 4_372_812_000, "digest": "61e88e8"} for name in self.models]
        await exchange.whole({"models": rows})

    async def _ps(self, exchange: Exchange) -> None:
        rows = [
            {"name": name, "model": name, "size_vram": 0, "context_length": options.get("num_ctx", 4096)}
            for name, options in self.loaded.items()
        ]
        await exchange.whole({"models": rows})

    async def _show(self, exchange: Exchange) -> None:
        name = _tagged(exchange.json["model"])
        if name not in self.models:
            await exchange.whole({"error": f"model '{exchange.json['model']}' not found"}, 404)
            return
        await exchange.whole(
            {
                "details": {"format": "gguf", "family": "llama", "quantization_level": "Q4_0"},
                "model_info": {"general.architecture": "llama", "llama.context_length": 32768},
                "capabilities": ["completion", "tools"],
                "template": "{{ .Prompt }}",
            }
        )

    async def _delete(self, exchange: Exchange) -> None:
        name = _tagged(exchange.json["model"])
        if name not in self.models:
            await exchange.whole({"error": f"model '{exchange.json['model']}' not found"}, 404)
            return
        self.models.remove(name)
        self.loaded.pop(name, None)
        await exchange.whole(b"")

    async def _pull(self, exchange: Exchange) -> None:
        name = _tagged(exchange.json["model"])
        await exchange.start(200, "application/x-ndjson")
        if name not in self.registry:
            lines: list[dict[str, Any]] = [
                {"status": "pulling manifest"},
                {"error": "pull model manifest: file does not exist"},
            ]
        else:
            layer = {"status": "pulling ff82381e2bea", "digest": "sha256:ff82381e2bea", "total": 1000}
            lines = [
                {"status": "pulling manifest"},
                *({**layer, "completed": done} for done in (0, 400, 1000)),
                {"status": "verifying sha256 digest"},
                {"status": "writing manifest"},
                {"status": "success"},
            ]
        for line in lines:
            await exchange.send(json.dumps(line).encode() + b"\n")
        if name in self.registry:
            self.models.append(name)

    async def _embed(self, exchange: Exchange) -> None:
        body = exchange.json
        if not await self._ready(exchange, body):
            return
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        toy = ToyModel(self.window)
        await exchange.whole({"model": body["model"], "embeddings": [toy.vector(text) for text in texts]})

    async def _ready(self, exchange: Exchange, body: Mapping[str, Any]) -> bool:
        """Loaded, after however long that takes; False if an error was sent instead."""
        name = _tagged(body["model"])
        if name not in self.models:
            await exchange.whole({"error": f"model '{body['model']}' not found"}, 404)
            return False
        options = {key: value for key, value in body.get("options", {}).items() if key in _RUNNER_OPTIONS}
        if self.loaded.get(name) != options:
            self.loaded.pop(name, None)
            self.loads += 1
            await asyncio.sleep(self.load_s)
            self.loaded[name] = options
        return True

    async def _chat(self, exchange: Exchange) -> None:
        body = exchange.json
        self.bodies.append(body)
        if not await self._ready(exchange, body):
            return
        if not body["messages"]:
            reason = "unload" if body.get("keep_alive") == 0 else "load"
            if reason == "unload":
                self.loaded.pop(_tagged(body["model"]))
            await exchange.whole(_line(message={"role": "assistant", "content": ""}, done=True, done_reason=reason))
            return
        options = body.get("options", {})
        window = options.get("num_ctx", self.window)
        prompt, prefix = _rendered(body["messages"])
        prompt_tokens = len(tokens_of(prompt + prefix))
        if prompt_tokens >= window:
            if body.get("truncate") is False:
                await exchange.whole({"error": "the input length exceeds the context length"}, 400)
                return
            prompt_tokens = window // 2
        tools = body.get("tools") or []
        value = ""
        if body.get("format"):
            value = json_of(body["format"]) if isinstance(body["format"], dict) else "{}"
        asked = Asked(
            prompt,
            prefix,
            options.get("num_predict"),
            options.get("temperature", 0.8),
            options.get("seed", 0),
            options.get("stop", ()),
            value,
            endless=bool(body.get("endless")),
        )
        await exchange.start(200, "application/x-ndjson")
        self.busy += 1
        try:
            if tools:
                await self._call(exchange, tools[0]["function"], prompt_tokens)
            else:
                await self._write(exchange, asked, body, prompt_tokens)
        finally:
            self.busy -= 1

    async def _call(self, exchange: Exchange, function: Mapping[str, Any], prompt_tokens: int) -> None:
        call = {"function": {"name": function["name"], "arguments": json.loads(json_of(function["parameters"]))}}
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
        await exchange.send(_encoded(_line(message=message, done=False)))
        await exchange.send(_encoded(_end("stop", prompt_tokens, 9)))

    async def _write(self, exchange: Exchange, asked: Asked, body: Mapping[str, Any], prompt_tokens: int) -> None:
        for count, (token, reason) in enumerate(ToyModel(self.window).tokens(asked), start=1):
            if exchange.gone.is_set():
                return
            if self.break_after == count - 1:
                await exchange.send(_encoded({"error": "an error was encountered while running the model"}))
                return
            if token:
                line = _line(message={"role": "assistant", "content": token}, done=False)
                if body.get("logprobs"):
                    line["logprobs"] = [_logprob(token, body.get("top_logprobs", 0))]
                await exchange.send(_encoded(line))
            if reason:
                await exchange.send(_encoded(_end(reason, prompt_tokens, count)))
                return
            await asyncio.sleep(_TOKEN_S)


@asynccontextmanager
async def fake_ollama(*models: str, **settings: Any) -> AsyncIterator[FakeOllama]:
    ollama = FakeOllama(*models, **settings)
    server: FakeServer
    async with fake_server(ollama) as server:
        ollama.url = server.url
        yield ollama


def _rendered(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """The prompt as one text, and the beginning of the answer if the last turn is the assistant's."""
    prefix = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    turns = messages[:-1] if prefix else messages
    return "\n".join(f"{turn['role']}: {turn.get('content', '')}" for turn in turns), prefix


def _line(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "created_at": _STAMP, **fields}


def _end(reason: str, prompt_tokens: int, count: int) -> dict[str, Any]:
    return _line(
        message={"role": "assistant", "content": ""},
        done=True,
        done_reason=reason,
        total_duration=9_000_000,
        load_duration=1_000_000,
        prompt_eval_count=prompt_tokens,
        prompt_eval_duration=2_000_000,
        eval_count=count,
        eval_duration=5_000_000,
    )


def _logprob(token: str, top: int) -> dict[str, Any]:
    others = [{"token": token, "logprob": -0.25}, {"token": " other", "logprob": -1.5}, {"token": "!", "logprob": -3.0}]
    return {"token": token, "logprob": -0.25, "top_logprobs": others[:top]}


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"
