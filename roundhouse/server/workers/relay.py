"""What a worker passes on to the owner as it is: everything that no model answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from roundhouse.core.errors import EngineError, Error
from roundhouse.server.errors import form_of
from roundhouse.server.exchange import ClientGone, part, read_body, send_error, until_client_leaves

__all__ = ["Relay"]

_CUT_S = 1.0
_OF_ONE_HOP = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer"))


class _Connector(aiohttp.BaseConnector):
    """Connections to the owner: one end of a pair of sockets, whose other end is handed over. There is no address that
    another process could connect to.
    """

    def __init__(self, hand: Callable[[socket.socket], bool]) -> None:
        super().__init__(limit=0, force_close=True)  # a new pair costs less than one that was closed meanwhile
        self._hand = hand

    async def _create_connection(self, *_: Any) -> ResponseHandler:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            handed = self._hand(theirs)
        if not handed:
            ours.close()
            raise OSError("the owner takes no connection")
        made = await asyncio.get_running_loop().create_connection(self._factory, sock=ours)
        return made[1]


class Relay:
    """An ASGI application. `hand` gives a connection to the owner, `cut` closes that of a request; `limit_bytes` of a
    body.
    """

    def __init__(
        self,
        hand: Callable[[socket.socket], bool],
        cut: Callable[[Scope], None],
        limit_bytes: Callable[[], int],
    ) -> None:
        self._hand = hand
        self._cut = cut
        self._limit_bytes = limit_bytes
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def sending(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            body = await read_body(receive, self._limit_bytes())
            try:
                await until_client_leaves(scope, receive, self._pass(scope, body, sending))
            except (aiohttp.ClientError, OSError) as error:
                if not began:
                    raise EngineError(f"the process that owns the engines does not answer: {error}") from error
                self._cut(scope)
                await until_client_leaves(scope, receive, asyncio.sleep(_CUT_S))
        except ClientGone:
            pass
        except Error as error:
            if began:
                self._cut(scope)
                return
            await send_error(send, error, form_of(scope["path"]))

    async def _pass(self, scope: Scope, body: bytes, send: Send) -> None:
        path = scope.get("raw_path") or scope["path"].encode()
        query = scope["query_string"]
        url = URL(
            "http://owner" + path.decode("latin-1") + ("?" + query.decode("latin-1") if query else ""), encoded=True
        )
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in _OF_ONE_HOP and name not in (b"content-length", b"expect")
        ]
        async with self._open().request(
            scope["method"], url, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            told = [(name.lower(), value) for name, value in answer.raw_headers]
            sent = [(name, value) for name, value in told if name not in _OF_ONE_HOP]
            await send({"type": "http.response.start", "status": answer.status, "headers": sent})
            async for piece in answer.content.iter_any():
                await send(part(piece))
            await send(part(b"", last=True))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(self._hand),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
