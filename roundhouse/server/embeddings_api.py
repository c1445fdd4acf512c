"""Vectors for texts, in OpenAI's form and in both of Ollama's."""

from __future__ import annotations

import base64
import contextlib
import math
import struct
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.gateway.embeddings import Vectors
from roundhouse.server.context import Context
from roundhouse.server.dialect import decode
from roundhouse.server.errors import Form, ollama_form, openai_form
from roundhouse.server.exchange import ClientGone, read_body, send_error, send_json, until_client_leaves
from roundhouse.server.metering import CHARACTERS_A_TOKEN
from roundhouse.server.ollama_wire import resolved

__all__ = ["Embed", "EmbedBody", "Embeddings", "EmbeddingsBody", "OldEmbed", "OldEmbedBody"]

_MOST_TEXTS = 2048


class EmbeddingsBody(msgspec.Struct):
    """`POST /v1/embeddings`."""

    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: str | None = None
    dimensions: int | None = None
    user: str | None = None


class EmbedBody(msgspec.Struct):
    """`POST /api/embed`."""

    model: str
    input: str | list[str]
    dimensions: int | None = None
    truncate: bool | None = None
    keep_alive: float | str | None = None
    options: dict[str, Any] | None = None


class OldEmbedBody(msgspec.Struct):
    """`POST /api/embeddings`."""

    model: str
    prompt: str
    keep_alive: float | str | None = None
    options: dict[str, Any] | None = None


class _Vectors:
    """One form of asking for vectors."""

    form: Form = staticmethod(openai_form)

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive, self._context.body_limit_bytes)
            model, texts, asked = self.parse(body, self._context.gateway.names())
            caller = self._context.user_of(scope, model)
            with contextlib.suppress(ClientGone):  # whoever hangs up has had them computed all the same
                await until_client_leaves(scope, receive, self._answer(model, texts, asked, scope, send))
            caller.spend(sum(map(len, texts)) // CHARACTERS_A_TOKEN, time.monotonic())
        except ClientGone:
            return
        except Error as error:
            await send_error(send, error, self.form)

    async def _answer(self, model: str, texts: Sequence[str], asked: Any, scope: Scope, send: Send) -> None:
        began = time.monotonic()
        embedded = await self._context.gateway.embed(texts, model, scope["headers"])
        await send_json(send, self.tell(asked, embedded, time.monotonic() - began))

    def parse(self, body: bytes, known: Collection[str]) -> tuple[str, Sequence[str], Any]:
        raise NotImplementedError

    def tell(self, asked: Any, embedded: Vectors, seconds: float) -> dict[str, Any]:
        raise NotImplementedError


class Embeddings(_Vectors):
    """OpenAI's. No count of tokens is told, since no backend of ours tells one: 0."""

    def parse(self, body: bytes, known: Collection[str]) -> tuple[str, Sequence[str], EmbeddingsBody]:
        asked, _ = decode(body, EmbeddingsBody)
        if asked.encoding_format not in (None, "float", "base64"):
            raise InvalidRequest("encoding_format must be float or base64", param="encoding_format")
        return asked.model, _texts(asked.input), asked

    def tell(self, asked: Any, embedded: Vectors, seconds: float) -> dict[str, Any]:
        as_base64 = asked.encoding_format == "base64"
        vectors = [_cut(vector, asked.dimensions) for vector in embedded.vectors]
        rows = [
            {"object": "embedding", "index": place, "embedding": _base64(vector) if as_base64 else vector}
            for place, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        told = {"target": embedded.target}
        return {
            "object": "list",
            "data": rows,
            "model": self._context.gateway.model_of(embedded.target),
            "usage": usage,
            "roundhouse": told,
        }


class Embed(_Vectors):
    """Ollama's."""

    form: Form = staticmethod(ollama_form)

    def parse(self, body: bytes, known: Collection[str]) -> tuple[str, Sequence[str], EmbedBody]:
        asked, _ = decode(body, EmbedBody)
        return resolved(asked.model, known), _texts(asked.input), asked

    def tell(self, asked: Any, embedded: Vectors, seconds: float) -> dict[str, Any]:
        vectors = [_cut(vector, asked.dimensions) for vector in embedded.vectors]
        return {
            "model": asked.model,
            "embeddings": vectors,
            "total_duration": int(seconds * 1e9),
            "load_duration": 0,
            "prompt_eval_count": 0,
        }


class OldEmbed(_Vectors):
    """Ollama's of old: one text, one vector."""

    form: Form = staticmethod(ollama_form)

    def parse(self, body: bytes, known: Collection[str]) -> tuple[str, Sequence[str], OldEmbedBody]:
        asked, _ = decode(body, OldEmbedBody)
        return resolved(asked.model, known), _texts(asked.prompt), asked

    def tell(self, asked: Any, embedded: Vectors, seconds: float) -> dict[str, Any]:
        return {"embedding": embedded.vectors[0]}


def _texts(given: str | Sequence[str | int | list[int]]) -> list[str]:
    many = [given] if isinstance(given, str) else given
    if not many:
        raise InvalidRequest("input is empty; send at least one text", param="input")
    texts = [one for one in many if isinstance(one, str)]
    if len(texts) != len(many):
        said = "input must be text: token ids belong to one tokenizer (langchain: check_embedding_ctx_length=False)"
        raise InvalidRequest(said, param="input")
    if not all(texts):
        raise InvalidRequest("input has an empty text", param="input")
    if len(texts) > _MOST_TEXTS:
        raise InvalidRequest(f"input has {len(texts)} texts; {_MOST_TEXTS} is the limit", param="input")
    return texts


def _cut(vector: list[float], dimensions: int | None) -> list[float]:
    """The first `dimensions` of a vector, of length 1 again, as models made for it allow (arXiv 2205.13147)."""
    if dimensions is None or dimensions == len(vector):
        return vector
    if not 1 <= dimensions < len(vector):
        raise InvalidRequest(f"dimensions must be between 1 and {len(vector)}, not {dimensions}", param="dimensions")
    cut = vector[:dimensions]
    norm = math.sqrt(sum(value * value for value in cut))
    return [value / norm for value in cut] if norm else cut


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
