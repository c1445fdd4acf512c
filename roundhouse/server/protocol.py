"""uvicorn's HTTP protocol with limits on what it leaves to the client's good will: slow heads and bodies, endless
heads and trailers, requests piled up behind one another, answers that are never read. Besides it mends what uvicorn
does to three kinds of clients: those that hang up behind a pipelined request, those that offer HTTP/2, and HTTP/1.0.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar

import httptools
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from roundhouse.server.exchange import LEAVING, Leaving

__all__ = ["ENDLESS", "ConnectionLimits", "Limited", "limited"]

# Set in the scope of a request whose answer goes on until somebody leaves.
ENDLESS = "roundhouse.endless"
# Requests sent before the answer to an earlier one: more than any client that means well.
_MOST_PIPELINED = 32
# How long a connection may lie idle when more than half of all that may be open are.
_CROWDED_S = 5.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """A head must arrive within `head_s` and hold at most `head_bytes`, a whole request within `request_s`; a client
    that takes nothing of its answer for `stalled_s` is cut off. Between two requests it may wait for `idle_s`.
    """

    head_s: float = 10.0
    request_s: float = 60.0
    stalled_s: float = 60.0
    idle_s: float = 75.0
    head_bytes: int = 64 << 10


class _HeadTooLarge(Exception):
    pass


class _Trailers(list[tuple[bytes, bytes]]):
    """Fields after a chunked body: none of ours, so they are dropped, and counted over the whole connection."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._left = most_bytes

    def append(self, field: tuple[bytes, bytes]) -> None:
        self._left -= len(field[0]) + len(field[1])
        if self._left < 0:
            raise _HeadTooLarge


class _UntilClosed(RequestResponseCycle):
    """An answer to HTTP/1.0, which knows no chunks: one of unknown length ends where the connection does."""

    _sized = True

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            self._sized = any(name == b"content-length" for name, _ in message.get("headers", ()))
            if not self._sized:
                self.chunked_encoding = False
        elif message["type"] == "http.response.body" and not self._sized:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class Limited(HttpToolsProtocol):
    """`limits` may change at any time; a wait that has begun keeps its own."""

    limits: ClassVar[ConnectionLimits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._in_head = self._arriving = self._offered = False
        self._head_bytes = 0
        self._head_too_large = False
        self._trailers = _Trailers(self.limits.head_bytes)
        self._unanswered: deque[RequestResponseCycle] = deque()  # in the order in which they came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.limits.head_s, self._cut_off)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        if self._stalled is not None:
            self._stalled.cancel()
        for cycle in self._unanswered:  # uvicorn itself tells only the last one
            cycle.disconnected = True
            cycle.message_event.set()
            scope: Any = cycle.scope
            scope[LEAVING].leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head or not self._arriving:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.logger.info("Invalid HTTP request received.")  # whoever scans ports fills no disk
            self.send_400_response("Invalid HTTP request received.")
            return
        if self.parser is None or self.transport.is_closing():
            return
        if self._in_head and self._head_bytes > self.limits.head_bytes:
            self._head_too_large = True
            self.send_400_response("")
        elif not self._arriving and self._unanswered:
            self._forget_timer()
        elif self._timer is None:
            limit_s = self.limits.request_s if self._arriving and not self._in_head else self.limits.head_s
            self._timer = self.loop.call_later(limit_s, self._cut_off)

    def _feed(self, data: bytes) -> None:
        """A protocol that is offered and not taken up leaves the request as it is (RFC 9110, 7.8); the parser, though,
        would drop its body. So the head is read once more without the offer. Java's client offers HTTP/2 every time.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self.parser, head = httptools.HttpRequestParser(self), self._head_without_offer()
            self._offered = False
            self._feed(head + data[stopped.args[0] :])

    def _head_without_offer(self) -> bytes:
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        for name, value in self.headers:
            if name == b"connection":
                lines += [b"connection: close"] if b"close" in value.lower() else []
            elif name != b"upgrade":
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        self._arriving = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._offered = True
            return
        self._in_head = False
        self._forget_timer()
        if self._head_bytes > self.limits.head_bytes:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > self.limits.head_bytes:
                self._head_too_large = True
                raise _HeadTooLarge
        self._head_bytes = 0
        scope: Any = self.scope
        scope[LEAVING] = Leaving()
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _UntilClosed
        self.headers = self._trailers
        self._unanswered.append(self.cycle)
        if len(self._unanswered) > _MOST_PIPELINED:
            self.transport.close()

    def on_message_complete(self) -> None:
        if self._offered:
            return
        self._arriving = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._unanswered.popleft()
        crowded = self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency // 2
        idle_s = min(self.limits.idle_s, _CROWDED_S) if crowded else self.limits.idle_s
        self.timeout_keep_alive = idle_s  # type: ignore[assignment]  # uvicorn says int, the loop takes any
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if not self._head_too_large:
            super().send_400_response(msg)
            return
        self.transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def shutdown(self) -> None:
        """The server stops: what runs may end by itself, but an endless answer never would."""
        super().shutdown()
        if self._unanswered and self._unanswered[0].scope.get(ENDLESS):
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.limits.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut_off(self) -> None:
        self._timer = None
        self.transport.close()


def limited(limits: ConnectionLimits) -> type[Limited]:
    """The protocol with these limits, for uvicorn's `http` setting."""
    return type("LimitedProtocol", (Limited,), {"limits": limits})
