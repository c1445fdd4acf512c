"""`/v1/models` and the counting of tokens: small questions about models."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, ClassVar

from starlette.types import Receive, Scope, Send

from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import Error
from roundhouse.server.anthropic_wire import parse_count
from roundhouse.server.context import Context, caller_of
from roundhouse.server.errors import Form, anthropic_form, openai_form
from roundhouse.server.exchange import ClientGone, read_body, send_error, send_json, until_client_leaves
from roundhouse.server.responses_wire import parse_responses

__all__ = ["CountInput", "CountTokens", "Model", "Models"]


class Models:
    """`GET /v1/models`: every name that may be put into `model`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = caller_of(scope)
        names = self._context.gateway.names()
        rows = [self.row(name, targets) for name, targets in names.items() if caller.may_use(name)]
        # `has_more` and its neighbours are for Anthropic's client, which asks at the same path.
        ends = {"first_id": rows[0]["id"], "last_id": rows[-1]["id"]} if rows else {}
        await send_json(send, {"object": "list", "data": rows, "has_more": False, **ends})

    def row(self, name: str, targets: tuple[str, ...]) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "type": "model",
            "display_name": name,
            "created": self._created,
            "created_at": datetime.fromtimestamp(self._created, UTC).isoformat().replace("+00:00", "Z"),
            "owned_by": "roundhouse",
            "roundhouse": {"targets": list(targets)},
        }


class Model:
    """`GET /v1/models/{name}`."""

    def __init__(self, context: Context, models: Models) -> None:
        self._context = context
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        if not name:
            await self._models(scope, receive, send)
            return
        try:
            self._context.user_of(scope, name)
            targets = self._context.gateway.targets_of(name)
        except Error as error:
            await send_error(send, error, openai_form)
        else:
            await send_json(send, self._models.row(name, targets))


class CountTokens:
    """`POST /v1/messages/count_tokens`."""

    form: Form = staticmethod(anthropic_form)
    object: ClassVar[dict[str, str]] = {}

    def __init__(self, context: Context) -> None:
        self._context = context

    def parse(self, body: bytes) -> ChatRequest:
        return parse_count(body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def count() -> None:
            counted = await self._context.gateway.count_tokens(request)
            await send_json(send, {**self.object, "input_tokens": counted})

        try:
            request = self.parse(await read_body(receive, self._context.body_limit_bytes))
            self._context.user_of(scope, request.model)
            await until_client_leaves(scope, receive, count())
        except ClientGone:
            return
        except Error as error:
            await send_error(send, error, self.form)


class CountInput(CountTokens):
    """`POST /v1/responses/input_tokens`."""

    form: Form = staticmethod(openai_form)
    object: ClassVar[dict[str, str]] = {"object": "response.input_tokens"}

    def parse(self, body: bytes) -> ChatRequest:
        return parse_responses(body).requests[0]
