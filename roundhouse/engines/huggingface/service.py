"""The worker's HTTP side: a few routes of the OpenAI wire, for the one client that has our key. Raw ASGI.

POST /v1/chat/completions   a stream, always
POST /v1/embeddings         where the target says `embeddings: true`
POST /tokenize              {"count", "tokens", "text": the prompt of these messages}
GET  /state                 what it does and is: busy, waiting, slots, window, device, dtype, chat_template
GET  /health                200, or 503 when the generation thread is dead
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from roundhouse.engines.huggingface.batching import Batching, Failed
from roundhouse.engines.huggingface.chat import Body, Chat, Refused
from roundhouse.engines.huggingface.embeddings import Embedder
from roundhouse.engines.huggingface.load import load
from roundhouse.resources.memory_transformers import cache_tokens_of

__all__ = ["Service"]

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream")
_BODY_BYTES = 64 << 20
_decoder = msgspec.json.Decoder(Body)


class _Gone(Exception):
    """The client hung up."""


class Service:
    """Made by `start`. `facts` are what the parent is told."""

    def __init__(
        self, settings: Mapping[str, Any], embedder: Embedder | None, chat: Chat | None, batching: Batching | None
    ) -> None:
        self._key = f"Bearer {settings['key']}".encode()
        self._slots = int(settings["n_parallel"])
        self._embedder = embedder
        self._chat = chat
        self._batching = batching
        self._embedding = asyncio.Lock()
        self._model: dict[str, str] = {}
        self.facts: dict[str, Any] = {"slots": self._slots}

    @classmethod
    async def start(cls, settings: Mapping[str, Any]) -> Service:
        """Load the model. Raises what transformers raises for one that cannot be loaded."""
        if settings.get("embeddings"):
            embedder = await asyncio.to_thread(Embedder, settings)
            service, loaded = cls(settings, embedder, None, None), embedder.loaded
        else:
            loaded = await asyncio.to_thread(load, settings, embeddings=False)
            slots = int(settings["n_parallel"])
            cache_tokens = cache_tokens_of(int(settings.get("cache_tokens") or 0), loaded.window, slots)
            batching = Batching(loaded, slots=slots, cache_tokens=cache_tokens, graphs=settings.get("cuda_graphs"))
            service = cls(settings, None, Chat(loaded, batching, settings.get("chat_template")), batching)
        service._model = {
            "architecture": str(getattr(loaded.model.config, "model_type", "")),
            "chat_template": str(loaded.tokenizer.chat_template or ""),
        }
        service.facts |= {
            "window": loaded.window,
            "device": loaded.device,
            "dtype": loaded.dtype,
            "notes": list(loaded.notes),
        }
        return service

    @property
    def alive(self) -> bool:
        return self._batching is None or self._batching.alive

    @property
    def steps(self) -> int:
        return self._batching.steps if self._batching else 0

    @property
    def busy(self) -> int:
        return self._batching.busy if self._batching else int(self._embedding.locked())

    def stop(self) -> None:
        if self._batching is not None:
            self._batching.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except Refused as error:
            await _whole(send, error.body, error.status)
        except _Gone:
            return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = f"{scope['method']} {scope['path']}"
        if route == "GET /health":
            await _whole(send, {"status": "ok"} if self.alive else {"status": "dead"}, 200 if self.alive else 503)
            return
        if not hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), self._key):
            raise Refused(401, "authentication_error", "the key is wrong")
        match route:
            case "GET /state":
                waiting = self._batching.waiting if self._batching else 0
                await _whole(send, {"busy": self.busy, "waiting": waiting, **self.facts, **self._model})
            case "POST /tokenize":
                body = _body(await _read(receive))
                tokens = self._chatting.tokens(body)
                text = self._chatting.text_of(tokens)
                await _whole(send, {"count": len(tokens), "tokens": tokens, "text": text})
            case "POST /v1/chat/completions":
                body = _body(await _read(receive))
                await _until_gone(receive, self._stream(body, send))
            case "POST /v1/embeddings":
                await self._embed(await _read(receive), send)
            case _:
                raise Refused(404, "not_found_error", f"there is no {route}")

    @property
    def _chatting(self) -> Chat:
        if self._chat is None:
            raise Refused(501, "not_supported_error", "this target serves embeddings; it cannot chat")
        return self._chat

    async def _stream(self, body: Body, send: Send) -> None:
        ask = self._chatting.ask(body)
        await send({"type": "http.response.start", "status": 200, "headers": [_EVENTS]})
        try:
            async with aclosing(self._chatting.events(body, ask)) as events:  # type: ignore[type-var]
                async for event in events:
                    await send(_part(event))
        except Failed as error:
            await send(_part(msgspec.json.encode({"error": {"message": str(error), "type": "server_error"}})))
        else:
            await send(_part(b"[DONE]"))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _embed(self, data: bytes, send: Send) -> None:
        if self._embedder is None:
            raise Refused(501, "not_supported_error", "this target does not serve embeddings; set embeddings: true")
        asked = _decoded(data, dict[str, Any]).get("input")
        texts = [asked] if isinstance(asked, str) else asked
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "invalid_request_error", "input must be a text or a list of texts")
        async with self._embedding:
            vectors, count = await asyncio.to_thread(self._embedder.embed, texts)
        rows = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        await _whole(send, {"data": rows, "usage": {"prompt_tokens": count, "total_tokens": count}})


async def _until_gone(receive: Receive, work: Any) -> None:
    """Run `work`, and cancel it when the client hangs up."""
    running = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            running.cancel()
            await asyncio.wait((running,))
            raise _Gone
        await running
    finally:
        gone.cancel()
        running.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        piece = message.get("body", b"")
        size += len(piece)
        if size > _BODY_BYTES:
            raise Refused(413, "invalid_request_error", f"the body is larger than {_BODY_BYTES >> 20} MiB")
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)


def _body(data: bytes) -> Body:
    body: Body = _decoded(data, Body)
    for message in body.messages:
        content = message.get("content")
        if isinstance(content, list):  # text parts; this worker cannot see
            if any(part.get("type") != "text" for part in content):
                raise Refused(400, "invalid_request_error", "this model takes text only")
            message["content"] = "".join(part["text"] for part in content)
    return body


def _decoded(data: bytes, kind: Any) -> Any:
    try:
        return _decoder.decode(data) if kind is Body else msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, "invalid_request_error", f"the body cannot be read: {error}") from error


async def _whole(send: Send, body: Mapping[str, Any], status: int = 200) -> None:
    data = msgspec.json.encode(body)
    headers = [_JSON, (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def _part(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True}
