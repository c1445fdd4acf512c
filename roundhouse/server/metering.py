"""What an answer costs a key: what the backend counted or, where an answer was cut, about what was computed for it."""

from __future__ import annotations

import time
from contextlib import aclosing

from roundhouse.access.caller import Caller
from roundhouse.core.chat import ChatRequest, Chunks
from roundhouse.routing.manager import Reply

__all__ = ["CHARACTERS_A_TOKEN", "metered"]

CHARACTERS_A_TOKEN = 4  # about, where no backend counts


def metered(reply: Reply, request: ChatRequest, caller: Caller) -> Reply:
    """`reply`, paid for by `caller` when it ends, however it ends: whoever hangs up has had the prompt read all the
    same, and what was written until then.
    """
    return Reply(_counted(reply, request, caller), reply.report)


async def _counted(reply: Reply, request: ChatRequest, caller: Caller) -> Chunks:
    written, counted = 0, 0
    try:
        async with aclosing(reply.chunks) as chunks:
            async for chunk in chunks:
                written += 1  # a piece is about a token
                if chunk.usage is not None:
                    counted = chunk.usage.total_tokens
                yield chunk
    finally:
        if not counted and (written or reply.report.overhead_s):  # which is set when a backend is asked
            counted = written + sum(len(message.content) for message in request.messages) // CHARACTERS_A_TOKEN
        caller.spend(counted, time.monotonic())
