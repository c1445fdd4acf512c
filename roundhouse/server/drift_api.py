"""`/admin/drift`: which targets have become slower or worse than they used to be."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from roundhouse.core.errors import InvalidRequest
from roundhouse.gateway import Gateway
from roundhouse.server.exchange import send_json

__all__ = ["Drift", "RelearnAsked"]


class RelearnAsked(msgspec.Struct, forbid_unknown_fields=True):
    target: str


class Drift:
    """`GET`: what is usual for every target, and how it is now."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = self._gateway.drifts
        await send_json(send, {"series": watch.standing() if watch is not None else []})

    async def relearn(self, asked: RelearnAsked) -> tuple[int, Any]:
        """200; from now on what the target does is usual."""
        watch = self._gateway.drifts
        if watch is None:
            raise InvalidRequest("targets are not watched here", param="target")
        watch.relearn(asked.target)
        return 200, {"target": asked.target}
