"""`/admin/prompts`: what there is to ask with, and what a model would read of it."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from roundhouse.core.chat import ChatRequest
from roundhouse.gateway import Gateway
from roundhouse.gateway.plain import labels_told, prompt_told, read_told
from roundhouse.server.exchange import send_json

__all__ = ["Prompts", "ReadAsked"]


class ReadAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/prompts/read`. `model`: the route or target whose first candidate would read it."""

    prompt: str
    variables: dict[str, Any] = {}
    model: str = ""


class Prompts:
    """`GET /admin/prompts`: every prompt with its variables, its wordings and the versions of its labels."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        catalog = self._gateway.catalog
        told = [{**prompt_told(prompt), "labels": labels_told(catalog, prompt)} for prompt in catalog]
        await send_json(send, {"prompts": told})

    async def read(self, asked: ReadAsked) -> tuple[int, Any]:
        """200 with the messages, and where the backend says so the very text and the number of its tokens."""
        request = self._gateway.prompted(asked.prompt, asked.variables, ChatRequest((), model=asked.model))
        return 200, read_told(await self._gateway.read(request))
