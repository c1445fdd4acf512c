"""What was asked and answered, collected for whoever keeps it where that is switched on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing

from roundhouse.core.chat import ChatRequest, Chunks
from roundhouse.prompts.prompt import Prepared
from roundhouse.routing.manager import Reply
from roundhouse.telemetry.log import Spoken

__all__ = ["overheard"]


Tell = Callable[[Spoken], None]


def overheard(reply: Reply, request: ChatRequest, tells: Sequence[Tell]) -> Reply:
    """`reply`, whose texts are told when it ends, however it does."""
    return Reply(_overheard(reply, request, tells), reply.report)


async def _overheard(reply: Reply, request: ChatRequest, tells: Sequence[Tell]) -> Chunks:
    texts: list[str] = []
    try:
        async with aclosing(reply.chunks) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    texts.append(chunk.text)
                yield chunk
    finally:
        asked = tuple((message.role, message.content) for message in request.messages)
        values = request.wording.texts if isinstance(request.wording, Prepared) else {}
        spoken = Spoken(reply.report.request_id, asked, values, "".join(texts))
        for tell in tells:
            tell(spoken)
