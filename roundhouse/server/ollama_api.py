"""`/api/*` beside generation: what models there are, what is loaded, and pull and delete for admins."""

from __future__ import annotations

from contextlib import aclosing
from importlib.metadata import version
from typing import Any

import msgspec
import psutil
from starlette.types import Receive, Scope, Send

from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.core.model import Capabilities, ModelFacts
from roundhouse.gateway.cards import Card
from roundhouse.providers.base import Pulls
from roundhouse.server.context import Context, caller_of
from roundhouse.server.dialect import LINES, decode
from roundhouse.server.errors import ollama_form
from roundhouse.server.exchange import (
    ClientGone,
    part,
    read_body,
    send_error,
    send_json,
    start_stream,
    until_client_leaves,
)
from roundhouse.server.ollama_wire import resolved, timestamp

__all__ = ["Delete", "NameBody", "Ps", "Pull", "Show", "Tags", "Version"]

_UNKNOWN = "0001-01-01T00:00:00Z"
_NEVER = "9999-12-31T00:00:00Z"
# Of the interface that is spoken here: programs refuse an Ollama that is older than what they need.
_SPOKEN = "0.12.11"


class NameBody(msgspec.Struct):
    """Names a model; `name` is what older clients send."""

    model: str = ""
    name: str = ""
    stream: bool | None = None
    verbose: bool | None = None


class Version:
    """`GET /api/version`: which Ollama to take us for, and which Roundhouse it is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, {"version": _SPOKEN, "roundhouse": version("roundhouse")})


class Tags:
    """`GET /api/tags`: every name that may be asked for."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cards = await self._context.gateway.cards(caller_of(scope).may_use)
        await send_json(send, {"models": [_row(card) for card in cards]})


class Ps:
    """`GET /api/ps`: what is loaded now by engines of ours, and how much memory each process holds."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cards = {card.target: card for card in await self._context.gateway.cards(caller_of(scope).may_use)}
        ready = [one for one in self._context.gateway.state()["replicas"] if one["engine"] == "ready"]
        rows = []
        for replica in ready:
            card = cards.get(replica["target"])
            if card is not None:
                held = _held_bytes(replica["pid"])
                window = {"context_length": card.facts.context} if card.facts else {}
                rows.append({**_row(card), "size": held, "size_vram": 0, "expires_at": _NEVER, **window})
        await send_json(send, {"models": rows})


class _ByName:
    """A `POST` or `DELETE` whose body names a model."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked, _ = decode(await read_body(receive, self._context.body_limit_bytes), NameBody)
            name = resolved(asked.model or asked.name, self._context.gateway.names())
            if not name:
                raise InvalidRequest("model is required", param="model")
            self._context.user_of(scope, name)
            await until_client_leaves(scope, receive, self.answer(name, asked, send))
        except ClientGone:
            return
        except Error as error:
            await send_error(send, error, ollama_form)

    async def answer(self, name: str, asked: NameBody, send: Send) -> None:
        raise NotImplementedError


class Show(_ByName):
    """`POST /api/show`."""

    async def answer(self, name: str, asked: NameBody, send: Send) -> None:
        card = await self._context.gateway.card(name)
        facts = card.facts
        await send_json(
            send,
            {
                "license": facts.licence if facts else "",
                "modelfile": f"# {name} is answered by target {card.target} ({card.type}: {_shown(card.model)})",
                "parameters": "",
                "template": facts.chat_template if facts else "",
                "details": _details(card),
                "model_info": _model_info(facts) if facts else {},
                "capabilities": _capabilities(card),
                "modified_at": timestamp(card.modified) if card.modified else _UNKNOWN,
            },
        )


class Pull(_ByName):
    """`POST /api/pull`: an attached Ollama downloads the model that one of its targets names."""

    async def answer(self, name: str, asked: NameBody, send: Send) -> None:
        client = await self._context.gateway.puller(name)
        async with aclosing(_statuses(client)) as statuses:
            if asked.stream is False:
                async for _ in statuses:
                    pass
                await send_json(send, {"status": "success"})
                return
            first = await anext(statuses, b"")
            await start_stream(send, LINES, {})
            try:
                await send(part(first))
                async for line in statuses:
                    await send(part(line))
            except Error as error:
                await send(part(msgspec.json.encode(ollama_form(error)) + b"\n", last=True))
            else:
                await send(part(b"", last=True))


class Delete(_ByName):
    """`DELETE /api/delete`: an attached Ollama removes the model that one of its targets names."""

    async def answer(self, name: str, asked: NameBody, send: Send) -> None:
        await (await self._context.gateway.puller(name)).adelete()
        await send_json(send, {})


async def _statuses(client: Pulls) -> Any:
    async with aclosing(client.apull()) as steps:
        async for step in steps:
            said: dict[str, Any] = {"status": step.status}
            if step.total_bytes:
                said |= {"total": step.total_bytes, "completed": step.completed_bytes}
            yield msgspec.json.encode(said) + b"\n"


def _row(card: Card) -> dict[str, Any]:
    return {
        "name": card.name,
        "model": card.name,
        "modified_at": timestamp(card.modified) if card.modified else _UNKNOWN,
        "size": card.facts.file_bytes if card.facts else 0,
        "digest": card.digest,
        "details": _details(card),
        "capabilities": _capabilities(card),
    }


def _details(card: Card) -> dict[str, Any]:
    facts = card.facts
    family = facts.architecture if facts else card.type
    return {
        "parent_model": _shown(card.model),
        "format": "" if facts is None else "gguf" if card.type == "llamacpp" else "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": _parameters(facts) if facts else "",
        "quantization_level": facts.quantisation if facts else "",
    }


def _shown(model: str) -> str:
    """Without the folders that it lies in, which are nobody's business."""
    return model.rpartition("/")[2] if model.startswith(("/", "~", ".")) else model


def _parameters(facts: ModelFacts) -> str:
    count = _count(facts)
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def _count(facts: ModelFacts) -> int:
    """Of the shapes: embeddings, attention, feed-forward. Within a few percent."""
    attention = sum((facts.heads + 2 * heads) * facts.key_length * facts.hidden for heads in facts.kv_heads)
    attention += facts.layers * facts.heads * facts.key_length * facts.hidden
    wide = (
        facts.feed_forward if not facts.experts else facts.experts * (facts.expert_feed_forward or facts.feed_forward)
    )
    count = attention + 3 * facts.layers * facts.hidden * wide
    return count + facts.vocabulary * facts.hidden * (1 if facts.tied_embeddings else 2)


def _model_info(facts: ModelFacts) -> dict[str, Any]:
    name = facts.architecture
    return {
        "general.architecture": name,
        "general.name": facts.name,
        "general.parameter_count": _count(facts),
        f"{name}.context_length": facts.context,
        f"{name}.embedding_length": facts.hidden,
        f"{name}.block_count": facts.layers,
        f"{name}.feed_forward_length": facts.feed_forward,
        f"{name}.attention.head_count": facts.heads,
        f"{name}.attention.head_count_kv": max(facts.kv_heads, default=0),
        f"{name}.vocab_size": facts.vocabulary,
    }


def _capabilities(card: Card) -> list[str]:
    """In Ollama's words."""
    able: Capabilities = card.capabilities
    if card.embeds:
        return ["embedding"]
    template = card.facts.chat_template if card.facts else ""
    tools = able.tools and (not template or "tools" in template)  # one that does not name them drops them
    return ["completion", *(["tools"] if tools else []), *(["vision"] if able.images else [])]


def _held_bytes(pid: int | None) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0
