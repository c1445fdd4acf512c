"""The parts of the server and nothing else: uvicorn, starlette and aiohttp hand on a request and its answer.

No authentication, routing, limits, metrics or history: whatever a server on these parts adds, it adds to this.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def _app(backend: str) -> Starlette:
    sessions: list[aiohttp.ClientSession] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            sessions.append(session)
            yield

    async def relay(request: Request) -> Response:
        body = msgspec.json.encode(msgspec.json.decode(await request.body()))
        headers = {"content-type": "application/json"}
        async with sessions[0].post(f"{backend}/v1/chat/completions", data=body, headers=headers) as answer:
            return Response(await answer.read(), answer.status, media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", relay, methods=["POST"])], lifespan=lifespan)


async def main() -> None:
    config = uvicorn.Config(_app(sys.argv[1]), port=0, log_level="error", access_log=False, http="httptools")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
    await serving


if __name__ == "__main__":
    uvloop.run(main())
